"""The public names are an inventory: adding or losing one is a decision, not an accident."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import siammae

INVENTORY = {
    "CheckpointError",
    "Comparison",
    "ConversionReport",
    "DatasetError",
    "EvaluationResult",
    "FeatureCache",
    "FeatureExtractor",
    "FrameKeypoints",
    "FrameMasks",
    "HogExtractor",
    "KernelUnavailableError",
    "KeypointPropagator",
    "KnownModel",
    "ModelConfig",
    "PixelExtractor",
    "PretrainConfig",
    "PretrainOutput",
    "PropagationConfig",
    "Propagator",
    "Reconstruction",
    "SiamMAE",
    "SiamMAEError",
    "Sweep",
    "TimmExtractor",
    "TopK",
    "VideoKeypoints",
    "VideoMasks",
    "VideoReadError",
    "VideoWriter",
    "WorkerError",
    "__version__",
    "available_kernels",
    "boundary_measure",
    "class_attention",
    "compare",
    "contact_sheet",
    "convert_checkpoint",
    "cross_attention",
    "evaluate_davis",
    "evaluate_jhmdb",
    "evaluate_vip",
    "feature_pca",
    "follow_keypoints",
    "follow_masks",
    "gather_labels",
    "known_models",
    "mean_iou",
    "overlay_heat",
    "overlay_keypoints",
    "overlay_masks",
    "pck",
    "pretrain",
    "propagate_keypoints",
    "propagate_masks",
    "read_frames",
    "read_mask",
    "reconstruct",
    "region_similarity",
    "score_davis",
    "score_jhmdb",
    "score_vip",
    "sweep",
    "topk_affinity",
    "write_mask",
}


def test_public_names_equal_the_inventory():
    assert set(siammae.__all__) == INVENTORY
    assert set(dir(siammae)) == INVENTORY


@pytest.mark.parametrize("name", sorted(INVENTORY - {"__version__"}))
def test_public_name_is_importable_and_documented(name):
    thing = getattr(siammae, name)
    assert thing.__module__.startswith("siammae.")
    assert inspect.getdoc(thing)


def test_names_for_type_checkers_equal_those_at_run_time():
    tree = ast.parse(Path(siammae.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    found = {
        alias.name: node.module.removeprefix("siammae.")
        for node in ast.walk(block)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert found == siammae._MODULE_OF


def test_unknown_name_raises_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'propagate_mask'"):
        siammae.propagate_mask  # noqa: B018


def test_import_loads_nothing_heavy_and_command_help_neither():
    code = (
        "import sys, siammae, siammae.cli\n"
        "siammae.cli._parser()\n"
        "print([name for name in ('torch', 'timm', 'cv2', 'triton', 'huggingface_hub') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
