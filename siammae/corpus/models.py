"""Which model made the features: loaded by name wherever the work is done, and known by its weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from siammae.features import FeatureExtractor
from siammae.network.loading import load_extractor
from siammae.network.model import SiamMAE
from siammae.network.timm_extractor import PREFIX, TimmExtractor
from siammae.parallel.processes import worker_number


class ModelName(NamedTuple):
    """What is needed to load a model in another process.

    Attributes:
        name: see ``siammae extract --model``.
        device: ``"cuda"`` becomes a GPU of its own for each process.
        dtype: of the weights, as PyTorch names it.
    """

    name: str
    device: str = "cpu"
    dtype: str = "float32"

    def load(self) -> FeatureExtractor:
        """Load the model, in a worker on its own GPU."""
        device, worker = self.device, worker_number()
        if device == "cuda" and worker is not None:
            device = f"cuda:{worker % torch.cuda.device_count()}"
        kind = TimmExtractor if self.name.startswith(PREFIX) else SiamMAE
        dtype: Any = getattr(torch, self.dtype, None) or self.dtype
        return kind.from_pretrained(self.name, device=device, dtype=dtype)

    def settled(self, described: Mapping[str, Any]) -> ModelName:
        """Return the name with the dtype that the model was loaded with, which no other process chooses anew."""
        return self._replace(dtype=described["dtype"])


Model = ModelName | FeatureExtractor | str


def load_model(model: Model) -> FeatureExtractor:
    """Return the model itself, or load it."""
    return model.load() if isinstance(model, ModelName) else load_extractor(model)


def describe_model(model: FeatureExtractor) -> dict[str, Any]:
    """Say what a model is, JSON-ready.

    Returns:
        ``model``, its name, which changes no features; ``revision``, of the Hub; ``weights``, the SHA-256 of the names,
        types, shapes and bytes of all its tensors, in the order of their names; ``dtype`` of the weights; ``network``,
        all else that features depend on.
    """
    module: Any = getattr(model, "model", model)
    digest = hashlib.sha256()
    tensors = module.state_dict() if isinstance(module, torch.nn.Module) else {}
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    config = getattr(model, "config", None)
    network: dict[str, Any] = {"class": type(model).__name__, "patch_size": model.patch_size}
    if config is not None:
        network["config"] = config.to_dict()
    elif isinstance(model, TimmExtractor):
        network |= {"name": model.name, "layer": model.layer, "norm": model.norm}
    said = {
        "model": str(getattr(model, "name", type(model).__name__)),
        "revision": getattr(model, "revision", None),
        "weights": digest.hexdigest() if tensors else None,
        "dtype": str(getattr(model, "dtype", torch.float32)).removeprefix("torch."),
        "network": network,
    }
    return dict(json.loads(json.dumps(said)))  # as it is read back: tuples are lists
