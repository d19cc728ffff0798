"""The paper's second figure: a past frame, the few patches seen of a future one, and what the network makes of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from siammae.checkpoints.hub import DEFAULT_WEIGHTS
from siammae.features import FeatureExtractor
from siammae.frames import PathLike, VideoSource, read_frames, resize_frame
from siammae.network.loading import load_extractor
from siammae.network.model import SiamMAE
from siammae.network.reconstruction import predict_frames
from siammae.visualize.pixels import check
from siammae.visualize.sheets import picture_table

_HIDDEN = 127  # grey


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """Pairs of frames, and the future one of each as the network predicts it.

    Attributes:
        past: ``(N, H, W, 3)`` uint8, what the network saw whole.
        masked: what it saw of the future frame; hidden patches are grey.
        prediction: hidden patches as predicted, visible ones as given. Where ``config.norm_pix_loss`` is set, each
            predicted patch has the brightness and the contrast of the true one, which the network does not know.
        target: the true future frame.
        hidden: ``(N, h, w)`` bool, True = hidden patch.
    """

    past: NDArray[np.uint8]
    masked: NDArray[np.uint8]
    prediction: NDArray[np.uint8]
    target: NDArray[np.uint8]
    hidden: NDArray[np.bool_]

    def strip(
        self, *, captions: Sequence[str] | None = None, width: int = 128, title: str | None = None
    ) -> NDArray[np.uint8]:
        """Lay all pairs out, one a column: past, masked, prediction, target; ``(H, W, 3)`` uint8.

        Args:
            captions: a text for each pair.
            width: of each picture, in pixels; see :func:`siammae.visualize.picture_table`.
            title: written above.
        """
        rows = dict(zip(_ROWS, (self.past, self.masked, self.prediction, self.target), strict=True))
        return picture_table(
            {name: list(row) for name, row in rows.items()}, columns=captions, width=width, title=title
        )

    def slides(self, *, width: int = 256) -> Iterator[NDArray[np.uint8]]:
        """Yield one picture a pair, of one size, for an animation: the four frames side by side."""
        for four in zip(self.past, self.masked, self.prediction, self.target, strict=True):
            yield picture_table({"": four}, columns=_ROWS, width=width)


_ROWS = ("past", "masked future", "prediction", "future")


def reconstruct_pairs(
    model: SiamMAE, past: Tensor, future: Tensor, *, mask_ratio: float = 0.95, seed: int = 0
) -> Reconstruction:
    """Let a network, in training or not, predict some future frames; ``.strip()`` of the result is a picture.

    Args:
        model: with a decoder; its mode stays as it is, and no random numbers but those of ``seed`` are drawn.
        past: ``(B, 3, H, W)``, RGB uint8, on any device, sides multiples of ``patch_size``.
        future: the same shape.
        mask_ratio: part of the future frames' patches that is hidden.
        seed: of the masks. A pair's mask depends on its place in the batch and on nothing else.

    Returns:
        One pair for each sample.

    Raises:
        ValueError: the network has no decoder, or frames or ``mask_ratio`` are refused.
    """
    for name, frames in (("past", past), ("future", future)):
        check(frames.dtype == torch.uint8, f"{name} is {frames.dtype}: it must be uint8, as pictures are.")
    shapes = tuple(past.shape), tuple(future.shape)
    valid = past.shape == future.shape and past.ndim == 4 and len(past) > 0
    check(valid, f"past is {shapes[0]} and future {shapes[1]}: both must be (B, 3, H, W) of one shape, B at least 1.")
    parts = [
        predict_frames(model, *pair, mask_ratio=mask_ratio, generator=_generator(seed, place))
        for place, pair in enumerate(zip(torch.split(past, 1), torch.split(future, 1), strict=True))
    ]
    frames, hidden = torch.cat([part.frames for part in parts]), torch.cat([part.hidden for part in parts])
    target = future.to(frames.device)
    p, (height, width) = model.patch_size, target.shape[-2:]
    hidden = hidden.view(-1, height // p, width // p)
    covered = hidden.repeat_interleave(p, dim=1).repeat_interleave(p, dim=2)[:, None]  # (B, 1, H, W)
    return Reconstruction(
        past=_channels_last(past),
        masked=_channels_last(target.masked_fill(covered, _HIDDEN)),
        prediction=_channels_last(torch.where(covered, frames, target)),
        target=_channels_last(target),
        hidden=hidden.cpu().numpy(),
    )


def _generator(seed: int, place: int) -> torch.Generator:
    return torch.Generator().manual_seed(int(np.random.SeedSequence((seed, place)).generate_state(1)[0]))


def _channels_last(frames: Tensor) -> NDArray[np.uint8]:
    return np.ascontiguousarray(frames.permute(0, 2, 3, 1).cpu().numpy())


def reconstruct(
    frames: VideoSource,
    *,
    model: FeatureExtractor | PathLike = DEFAULT_WEIGHTS,
    past: int | Literal["previous"] = 0,
    mask_ratio: float = 0.95,
    seed: int = 0,
    size: int | None = None,
) -> Reconstruction:
    """Predict the frames of a clip from one of them and from a few of their own patches.

    Args:
        frames: two or more frames, as in :func:`siammae.read_frames`; mind their distance in time.
        model: a network with a decoder, or its name.
        past: number of the frame in the clip from which all others are predicted; ``"previous"`` = each from the
            one before it.
        mask_ratio: part of the patches that is hidden.
        seed: of the masks.
        size: side of the square that enters the network, in pixels, a multiple of its patch: the frame's middle,
            brought to this size by averaging. None = ``config.image_size``.

    Returns:
        One pair fewer than there are frames.

    Raises:
        ValueError: the network has no decoder, the clip is too short, or frames or options are refused.
        VideoReadError: the video cannot be decoded.

    Example:
        >>> import numpy as np
        >>> import siammae
        >>> model = siammae.SiamMAE(siammae.ModelConfig.vit("tiny", image_size=48, depth=2)).eval()  # random weights
        >>> frames = np.random.default_rng(0).integers(0, 256, (3, 48, 64, 3), dtype=np.uint8)
        >>> result = siammae.reconstruct(frames, model=model)  # frames 1 and 2 from frame 0
        >>> result.prediction.shape, result.hidden.shape
        ((2, 48, 48, 3), (2, 3, 3))
    """
    network = load_extractor(model)
    if not isinstance(network, SiamMAE):
        name = getattr(network, "name", type(network).__name__)
        raise ValueError(f"{name} makes features only: predicting pixels takes a SiamMAE with a decoder.")
    size = network.config.image_size if size is None else size
    p = network.patch_size
    check(size >= p and size % p == 0, f"size is {size}: it must be a multiple of the patch size {p}.")
    squares = torch.from_numpy(np.stack([centre_square(frame, size) for frame in read_frames(frames)]))
    clip = squares.permute(0, 3, 1, 2)  # (T, 3, S, S)
    count = len(clip)
    check(count > 1, "the clip has one frame: at least two are needed, one to predict another from.")
    if past == "previous":
        return reconstruct_pairs(network, clip[:-1], clip[1:], mask_ratio=mask_ratio, seed=seed)
    check(0 <= past < count, f"past is {past}: it must be the number of a frame, from 0 to {count - 1}, or 'previous'.")
    future = torch.cat([clip[:past], clip[past + 1 :]])
    return reconstruct_pairs(network, clip[past].expand_as(future), future, mask_ratio=mask_ratio, seed=seed)


def centre_square(frame: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Cut the largest square out of a frame's middle and resize it to ``(size, size, 3)``, averaging pixels."""
    side = min(frame.shape[:2])
    top, left = ((length - side) // 2 for length in frame.shape[:2])
    return resize_frame(frame[top : top + side, left : left + side], (size, size), interpolation="area")
