"""Which models and rules the options of ``evaluate`` and ``sweep`` name: the rows of a table."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from siammae.cli.inputs import as_assignments, load_model, pick_device, propagation_changes
from siammae.cli.options import DEFAULT_MODEL
from siammae.config import PropagationConfig

if TYPE_CHECKING:
    from siammae.evaluation.comparison import Entry
    from siammae.features import FeatureExtractor
    from siammae.network.model import SiamMAE
    from siammae.network.timm_extractor import TimmExtractor


def find_entries(args: argparse.Namespace) -> list[Entry]:
    """Load every model and its baselines, each under every preset or the model's own rules."""
    from siammae.evaluation.comparison import Entry

    entries = []
    for name in args.model or [DEFAULT_MODEL]:
        model = load_model(args, name)
        rules = dict(_rules(args, model.propagation, preset) for preset in args.preset or [None])
        rows: dict[str, FeatureExtractor] = {name: model}
        rows |= {_label(name, model, kind): baseline(kind, model, args.device) for kind in args.baseline}
        entries += [
            Entry(label, row, title, config.for_extractor(row))
            for label, row in rows.items()
            for title, config in rules.items()
        ]
    # Two models of one patch size share the baselines that are no network.
    return list({(entry.label, entry.rules): entry for entry in entries}.values())


def _rules(
    args: argparse.Namespace, recommended: PropagationConfig | None, preset: str | None
) -> tuple[str, PropagationConfig]:
    """Return the rules and their name, which says what the options change."""
    if preset:
        name, config = preset, PropagationConfig.preset(preset, dataset=args.dataset)
    else:
        name, config = ("recommended", recommended) if recommended else ("defaults", PropagationConfig())
    changes = propagation_changes(args)
    return " ".join([name, *as_assignments(changes)]), config.replace(**changes)


def _label(name: str, model: SiamMAE | TimmExtractor, kind: str) -> str:
    labels = {"rgb": f"RGB patches of {model.patch_size}", "hog": f"HOG of {model.patch_size}"}
    return labels.get(kind, f"{name}, random weights")


def baseline(kind: str, model: SiamMAE | TimmExtractor, device: str) -> FeatureExtractor:
    """Make the extractor to compare with: same patch grid, and the rules stay those of the model."""
    import torch

    from siammae.features import HogExtractor, PixelExtractor
    from siammae.network.model import SiamMAE
    from siammae.network.timm_extractor import TimmExtractor

    if kind != "random":
        plain = PixelExtractor if kind == "rgb" else HogExtractor
        return plain(model.patch_size, device=pick_device(device))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if isinstance(model, TimmExtractor):
            return TimmExtractor.from_pretrained(model.name, pretrained=False, device=model.device, dtype=model.dtype)
        return SiamMAE(model.config).to(model.device, model.dtype).eval()
