"""A map of the features that turns down what changes when a thing moves: fitted in minutes, without gradients.

In pairs of crops of which flow or pasting says which patch shows what, right matches differ by what should not count:
place, surroundings, light, pose. Each direction of the features is divided by how much they differ in it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from siammae.checkpoints.hub import DEFAULT_WEIGHTS
from siammae.config import ModelConfig, PretrainConfig
from siammae.config.settings import check
from siammae.frames import PathLike
from siammae.network.model import SiamMAE
from siammae.network.whitening import Whitening
from siammae.outputs import claim_folder
from siammae.pretraining.data.crops import Pairs
from siammae.pretraining.data.pairs import VideoPairs
from siammae.pretraining.data.sources import find_clips

_FILES = r"config\.json|model\.safetensors|README\.md"
Reader = Literal["auto", "opencv", "pyav", "torchcodec"]


def whiten(
    videos: PathLike,
    folder: PathLike,
    *,
    model: PathLike = DEFAULT_WEIGHTS,
    pairs: int = 400,
    epsilon: float = 0.3,
    seed: int = 0,
    reader: Reader = "auto",
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    overwrite: bool = False,
    progress: bool = False,
) -> Path:
    """Fit a map of a network's features on video, and store the network with it.

    Pairs are drawn as for the matching loss, still pairs with flow and pasted pieces, at the size of the network's
    training. Only patches that move on their own count: what stays hardly differs.

    Args:
        videos: as for :class:`siammae.PretrainConfig`; images alone will do, in them pasted pieces move.
        folder: of the new checkpoint; made if missing.
        model: a checkpoint, as for :meth:`siammae.SiamMAE.from_pretrained`; a map it has already is replaced.
        pairs: how many are drawn, at least 1.
        epsilon: part of the mean variance of the differences added to every direction, > 0; more = nearer to no map.
        seed: of the pairs.
        reader: decodes videos, see :class:`siammae.PretrainConfig`.
        device: where the network runs.
        dtype: in which it runs; the weights are stored as they were.
        overwrite: whether a checkpoint in the folder may be replaced.
        progress: show a bar.

    Returns:
        ``folder``, loadable by :meth:`siammae.SiamMAE.from_pretrained`.

    Raises:
        ValueError: an option is out of range, too little moves in the pairs, or the folder holds a checkpoint.
        FileNotFoundError: there is no such model or no video.
        CheckpointError: the model is damaged.
        DatasetError: too many clips cannot be read.

    Source:
        Mikolajczyk and Matas 2007, "Improving descriptors for fast tree matching by optimal linear projection": the
        covariance of matching descriptors' differences; here without their choice of fewer directions.
    """
    check(pairs >= 1, "pairs", pairs, "at least 1")
    check(epsilon > 0, "epsilon", epsilon, "above 0")
    with claim_folder(folder, _FILES, inputs=[videos, model], overwrite=overwrite):
        network = SiamMAE.from_pretrained(model)
        network.drop_whitening()
        config = _pair_config(network.config, videos, seed, reader)
        stream = VideoPairs(find_clips(videos), config)
        running = network if dtype == torch.float32 else SiamMAE.from_pretrained(model, dtype=dtype)
        running.drop_whitening()
        running.to(device)
        matches = Matches(network.config.embed_dim)
        for position in tqdm(range(pairs), desc="whiten", disable=not progress):
            matches.add(running, stream[position])
        network.to("cpu")
        network.whitening = matches.fit(epsilon)
        network.config = network.config.replace(whitened=True)
        return network.save_pretrained(folder)


def _pair_config(model: ModelConfig, videos: PathLike, seed: int, reader: Reader) -> PretrainConfig:
    """Return how pairs are drawn: wide crops, as frames are in use, with pieces that move."""
    return PretrainConfig(
        videos=str(videos),
        output_dir="",
        model=model.replace(decoder="cross-self"),  # any: only the crops are needed
        still_share=1.0,
        still_gap=8,
        still_flow=True,
        still_scale=(0.5, 1.0),
        still_rotation=8.0,
        still_choices=3,
        still_copy_paste=6,
        crop_scale=(0.35, 1.0),
        crop_ratio=(0.8, 1.6),
        color_jitter=0.15,
        match_weight=1.0,
        match_motion=1.0,
        samples_per_video=1,
        reader=reader,
        seed=seed,
    )


class Matches:
    """What right matches of patches that move differ by, summed up pair by pair.

    Args:
        dim: channels of the features.
    """

    def __init__(self, dim: int) -> None:
        self._sum = torch.zeros(dim, dtype=torch.float64, device="cpu")
        self._products = torch.zeros(dim, dim, dtype=torch.float64, device="cpu")
        self._patches = self._matches = 0

    def add(self, model: SiamMAE, pairs: Pairs) -> None:
        """Add some pairs.

        Args:
            model: makes the features.
            pairs: of crops.
        """
        side = pairs.frames.shape[-1] // model.patch_size
        for frames, places, moves in zip(pairs.frames, pairs.places, pairs.moves, strict=True):
            past, future = model.extract(frames).double().cpu()  # (C, side, side)
            counts = moves & ((places > -0.5) & (places < side - 0.5)).all(dim=1)  # no comparison holds for NaN
            found = sample(past, places[counts])  # (n, C)
            differences = future.flatten(1).T[counts] - found
            self._products += differences.T @ differences
            self._matches += len(differences)
            self._sum += past.flatten(1).sum(dim=1)
            self._patches += side**2

    def fit(self, epsilon: float) -> Whitening:
        """Return the map.

        Raises:
            ValueError: there are too few matches to know how every direction varies.
        """
        dim = len(self._sum)
        if self._matches <= dim:
            raise ValueError(
                f"{self._matches} patches move in these pairs: more than {dim} are needed to know how they differ in "
                "every direction. Give more pairs, or videos in which more moves."
            )
        whitening = Whitening(dim)
        whitening.set_map(self._sum / self._patches, self._products / self._matches / 2, epsilon=epsilon)
        return whitening


def sample(features: Tensor, places: Tensor) -> Tensor:
    """Read a map of features bilinearly.

    Args:
        features: ``(C, h, w)``, float.
        places: ``(n, 2)`` x, y in patches, where patch i has its centre at i.

    Returns:
        ``(n, C)``, in the features' dtype.
    """
    size = torch.tensor(features.shape[:0:-1], dtype=features.dtype, device=features.device)  # w, h
    grid = (places.to(features) + 0.5) / size * 2 - 1
    read = F.grid_sample(features[None], grid[None, None], align_corners=False, padding_mode="border")
    return read[0, :, 0].T
