"""Everything a pretraining run depends on."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from siammae.config.network import ModelConfig
from siammae.config.recipes import RECIPES
from siammae.config.settings import (
    TEMPERATURES,
    Settings,
    check,
    check_choice,
    check_flags,
    check_integers,
    check_range,
)

# Fields of which one of a few values is allowed.
PRETRAIN_CHOICES: Mapping[str, tuple[str, ...]] = {
    "past_mask": ("none", "symmetric", "grid"),
    "predict": ("future", "past"),
    "precision": ("auto", "bf16", "fp16", "fp32"),
    "parallel": ("ddp", "fsdp"),
    "reader": ("auto", "opencv", "pyav", "torchcodec"),
}
LOGGERS = ("tensorboard", "wandb", "trackio")
_COUNTS = ("samples_per_video", "epochs", "batch_size", "accumulate")
_RHYTHM = ("checkpoint_every", "keep_states", "probe_every", "probe_side")
_NOT_NEGATIVE = (
    "cache_mb",
    "warmup_epochs",
    "workers",
    "weight_decay",
    "base_lr",
    "still_gap",
    "still_copy_paste",
    "match_weight",
    "match_motion",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainConfig(Settings):
    """Everything a pretraining run depends on; saved as JSON beside every checkpoint.

    Attributes:
        videos: what to train on: a folder searched for videos, images or tar shards; a ``.txt`` with a path, or a
            ``.csv`` with a path and times, in each line, videos and images together; or one file.
        output_dir: gets ``states/`` (to resume), ``log.jsonl``, ``skipped.txt`` (clips that cannot be read) and
            ``model/`` (for ``from_pretrained``).
        model: the network.
        mask_ratio: part of the future frame's patches that is hidden, in (0, 1).
        past_mask: what is hidden of the past frame: ``"none"``, the paper's choice; ``"symmetric"`` = ``mask_ratio`` of
            it, drawn apart; ``"grid"`` = all but the top left patch of every square of 2 x 2.
        predict: the frame that is hidden, ``"future"`` or ``"past"``; the other one is what it is predicted from.
        frame_gap: least and largest distance of the two frames, inclusive, in frames; cut to what a clip allows.
        samples_per_video: pairs drawn from each video in one epoch (repeated sampling).
        crop_scale: part of the frame's area that a crop covers, least and largest.
        crop_ratio: width over height of a crop, least and largest.
        flip: probability of a horizontal flip.
        still_share: part of the pairs made from one frame, the future being a crop inside the past's crop, instead of
            two frames by one crop (CropMAE's global-to-local pairs). Of videos: single images beside them give no
            other pairs. Of images alone it must be 1.
        still_scale: part of the past crop's area that the future crop of such a pair covers, least and largest.
        still_gap: the future crop of a still pair may come from a frame up to this many frames away.
        still_flow: where the two frames of a still pair differ, follow what moved by optical flow (OpenCV's DIS): the
            matching loss then learns from real motion, and leaves out what the flow cannot follow for sure.
        still_copy_paste: up to this many pieces of the picture are pasted into both crops of a still pair, each at
            a place of its own in either, so that not all moves with the scene.
        still_rotation: the future crop of a still pair is turned by up to this many degrees either way.
        color_jitter: strength in [0, 1) of random changes of brightness, contrast and colour, drawn for each of the
            two frames of a pair of its own.
        match_weight: weight of the matching loss on still pairs, where it is known which patch shows what (see
            ``siammae.network.loss.matching_loss``). 0 = the paper's loss alone.
        match_temperature: of the matching loss.
        match_motion: a patch that moves on its own, against the dominant motion of its frame (``still_flow``) or as a
            pasted piece (``still_copy_paste``), counts ``1 + match_motion`` patches in the matching loss.
        init: weights to begin with, as for ``SiamMAE.from_pretrained``; their network must be ``model``'s. None =
            random weights.
        crop_size: pixels on a side of a crop when it enters the network, a multiple of the patch size; None =
            ``model.image_size``.
        position_step: each crop gets a random part of the grid of positions of ``model.image_size``, with its patches
            apart by a step drawn (log-uniformly) from this range for each axis, so that it may be smaller than what
            the network is used on later. 1 = the grid's own step. None = a crop fills the grid.
        short_side: frames are shrunk to this short side when read; None keeps them.
        cache_mb: memory for decoded frames in each reading process, in MiB; 0 decodes anew for every sample.
        epochs: passes over the videos, each of which draws ``samples_per_video`` pairs from every one. Papers count
            the pairs a video instead, ``epochs * samples_per_video``.
        warmup_epochs: epochs in which the learning rate rises from 0.
        batch_size: pairs in one optimiser step, over all processes.
        accumulate: parts in which each process goes through its share of a batch, one after the other, so that larger
            batches fit; the same step but for rounding.
        base_lr: learning rate for a batch of 256 pairs; scaled by ``batch_size / 256``.
        weight_decay: of AdamW, on matrices only.
        layer_decay: the learning rate of each encoder block is that of the next one times this, in (0, 1], that of the
            last block the decoder's times this; below 1 the first layers keep more of ``init``.
        ema: decay of a running average of the weights, in (0, 1), exported as ``model_ema/`` beside ``model/``; None
            keeps none.
        betas: decay rates of AdamW's two running averages.
        clip_grad: longest gradient (l2 norm over all weights); longer ones are shortened to it. None = any length.
        precision: ``"bf16"`` = bfloat16 autocast; ``"fp16"`` = float16 autocast with a scaled loss, on GPUs without
            bfloat16; ``"fp32"``; ``"auto"`` = bf16 on GPUs and on CPUs with instructions
            for it (AVX512-BF16, AMX), else fp32. A run's saved settings name the one it took.
        compile: compile encoder and decoder with ``torch.compile``: a minute before the first step, another rounding.
        recompute: keep no activations inside a block for the backward pass, but compute them again (activation
            checkpointing): the same weights, less memory, more time.
        parallel: how several processes share the work: ``"ddp"`` = each holds all weights; ``"fsdp"`` = each holds a
            part of them (FSDP2), for ViT-L and larger.
        reader: decodes videos: ``"pyav"``, which ``"auto"`` is; ``"opencv"``, which squeezes a size that changes in
            mid-stream; or ``"torchcodec"`` (extra of this name).
        max_skipped: part of the clips that may be unreadable, in [0, 1); more stop the run. Above 0 one may always be.
        workers: processes that read ahead, for each training process; 0 reads in the training process.
        checkpoint_every: optimiser steps between saved states.
        keep_states: saved states that are kept, the latest; an older one helps where the latest is damaged.
        picture_every: optimiser steps between pictures of what is predicted; 0 draws none.
        probe: a folder in the layout of DAVIS, on which the current features are scored; None scores none.
        probe_every: optimiser steps between such scores.
        probe_year: of its split.
        probe_split: of its videos.
        probe_side: short side of its frames when they enter the network, in pixels.
        loggers: besides ``log.jsonl``: ``"tensorboard"``, ``"wandb"``, ``"trackio"``.
        seed: of weights, masks, pairs and crops.

    Raises:
        ValueError: a field is out of range.

    Source:
        Gupta et al. 2023, table 4a, but for the length of the run (see :meth:`preset`); still pairs are CropMAE's idea
        as a part of the diet, the matching loss is ours.

    Example:
        >>> import siammae
        >>> config = siammae.PretrainConfig(videos="clips", output_dir="run", mask_ratio=0.9)
        >>> config.model.patch_size
        16
        >>> config == siammae.PretrainConfig.from_dict(config.to_dict())
        True
    """

    videos: str
    output_dir: str
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    mask_ratio: float = 0.95
    past_mask: Literal["none", "symmetric", "grid"] = "none"
    predict: Literal["future", "past"] = "future"
    frame_gap: tuple[int, int] = (4, 48)
    samples_per_video: int = 2
    crop_scale: tuple[float, float] = (0.5, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    still_share: float = 0.0
    still_scale: tuple[float, float] = (0.35, 1.0)
    still_gap: int = 0
    still_flow: bool = False
    still_copy_paste: int = 0
    still_rotation: float = 0.0
    color_jitter: float = 0.0
    match_weight: float = 0.0
    match_temperature: float = 0.1
    match_motion: float = 0.0
    init: str | None = None
    crop_size: int | None = None
    position_step: tuple[float, float] | None = None
    short_side: int | None = None
    cache_mb: int = 0
    epochs: int = 400
    warmup_epochs: int = 40
    batch_size: int = 2048
    accumulate: int = 1
    base_lr: float = 1.5e-4
    weight_decay: float = 0.05
    layer_decay: float = 1.0
    ema: float | None = None
    betas: tuple[float, float] = (0.9, 0.95)
    clip_grad: float | None = None
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    compile: bool = False
    recompute: bool = False
    parallel: Literal["ddp", "fsdp"] = "ddp"
    reader: Literal["auto", "opencv", "pyav", "torchcodec"] = "auto"
    max_skipped: float = 0.1
    workers: int = 0
    checkpoint_every: int = 500
    keep_states: int = 2
    picture_every: int = 0
    probe: str | None = None
    probe_every: int = 500
    probe_year: int = 2017
    probe_split: str = "val"
    probe_side: int = 240
    loggers: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        check_integers(self)
        check_flags(self)
        if isinstance(self.model, Mapping):  # from JSON
            object.__setattr__(self, "model", ModelConfig.from_dict(self.model))
        for field in ("videos", "output_dir"):  # a Path would fit neither JSON nor the saved state
            object.__setattr__(self, field, os.fspath(getattr(self, field)))
        check(not self.model.whitened, "model.whitened", True, "False: whitening is fitted after training")
        check(self.model.decoder != "none", "model.decoder", self.model.decoder, "one that predicts pixels")
        check(0 < self.mask_ratio < 1, "mask_ratio", self.mask_ratio, "between 0 and 1")
        check(1 <= self.frame_gap[0] <= self.frame_gap[1], "frame_gap", self.frame_gap, "(least, largest), from 1 up")
        for field in ("crop_scale", "still_scale"):
            low, high = getattr(self, field)
            check(0 < low <= high <= 1, field, (low, high), "(least, largest) in (0, 1]")
        check(0 < self.crop_ratio[0] <= self.crop_ratio[1], "crop_ratio", self.crop_ratio, "(least, largest) above 0")
        check(0 <= self.flip <= 1, "flip", self.flip, "a probability")
        check(0 <= self.still_share <= 1, "still_share", self.still_share, "between 0 and 1")
        check(self.short_side is None or self.short_side >= 1, "short_side", self.short_side, "at least 1, or None")
        for field in (*_COUNTS, *_RHYTHM):
            check(getattr(self, field) >= 1, field, getattr(self, field), "at least 1")
        multiple = f"a multiple of samples_per_video x accumulate = {self.samples_per_video} x {self.accumulate}"
        check(
            self.batch_size % (self.samples_per_video * self.accumulate) == 0, "batch_size", self.batch_size, multiple
        )
        check(all(0 <= beta < 1 for beta in self.betas), "betas", self.betas, "two numbers in [0, 1)")
        check(0 <= self.still_rotation <= 180, "still_rotation", self.still_rotation, "0 to 180 degrees")
        check(0 <= self.color_jitter < 1, "color_jitter", self.color_jitter, "in [0, 1)")
        check_range("match_temperature", self.match_temperature, TEMPERATURES)
        matching = self.match_weight == 0 or (self.still_share > 0 and self.model.encoder == "siamese")
        check(matching, "match_weight", self.match_weight, "0 without still pairs or with a joint encoder")
        moving = self.match_motion <= 0 or (self.match_weight > 0 and (self.still_flow or self.still_copy_paste > 0))
        allowed = "0 without match_weight, and without still_flow or still_copy_paste to know what moves"
        check(moving, "match_motion", self.match_motion, allowed)
        check(self.clip_grad is None or self.clip_grad > 0, "clip_grad", self.clip_grad, "above 0, or None")
        for field in (*_NOT_NEGATIVE, "picture_every"):
            check(getattr(self, field) >= 0, field, getattr(self, field), "at least 0")
        for field, choices in PRETRAIN_CHOICES.items():
            check_choice(field, getattr(self, field), choices)
        self._check_crops()
        self._check_monitoring()
        forward = self.match_weight == 0 or (self.past_mask == "none" and self.predict == "future")
        check(forward, "match_weight", self.match_weight, "0 with past_mask other than 'none' or predict 'past'")
        check(0 < self.layer_decay <= 1, "layer_decay", self.layer_decay, "in (0, 1]")
        check(self.ema is None or 0 < self.ema < 1, "ema", self.ema, "between 0 and 1, or None")
        check(0 <= self.max_skipped < 1, "max_skipped", self.max_skipped, "in [0, 1)")

    @property
    def crop_side(self) -> int:
        """Pixels on a side of a crop when it enters the network."""
        return self.model.image_size if self.crop_size is None else self.crop_size

    def _check_crops(self) -> None:
        patch = self.model.patch_size
        whole = self.crop_side >= patch and self.crop_side % patch == 0
        check(whole, "crop_size", self.crop_size, f"a multiple of the patch size {patch}, or None")
        if self.position_step is None:
            return
        low, high = self.position_step
        check(0 < low <= high, "position_step", (low, high), "(least, largest) above 0, or None")
        check(self.model.position == "sincos", "position_step", (low, high), 'None unless model.position is "sincos"')
        most = self.model.grid_size / (self.crop_side // patch)
        allowed = f"at most {most:g}, with which a crop of {self.crop_side} pixels fills the grid of model.image_size"
        check(high <= most, "position_step", (low, high), allowed)

    @classmethod
    def preset(
        cls,
        name: str,
        *,
        videos: str | os.PathLike[str],
        output_dir: str | os.PathLike[str],
        **fields: Any,  # noqa: ANN401 -- the fields' own types
    ) -> Self:
        """Return a recipe: a published one, or the bundled checkpoint's.

        Args:
            name: one of

                - ``"siammae-k400"``: the paper's, ViT-S/16 on Kinetics-400 (Gupta et al. 2023, table 4a);
                - ``"siammae-k400-s8"``: the same for ViT-S/8;
                - ``"siammae-k400-b16"``: the same for ViT-B/16, which later papers add;
                - ``"cropmae-repo"``: SiamMAE as CropMAE's code trains it, on Kinetics-400;
                - ``"cropmae"``: CropMAE itself, pairs of crops of one image, on ImageNet (Eymaël et al. 2024);
                - ``"cropmae-k400"``: the same on single frames of Kinetics-400;
                - ``"siammae-ti8-leg1"`` to ``"siammae-ti8-leg5"``: the bundled checkpoint's, on its 433 clips; each
                  but the first takes the model of the one before as ``init``.

                All values in a table, how epochs are counted, what could not be taken over and what the sources leave
                open stand in ``siammae/config/recipes.py``.
            videos: see the class.
            output_dir: see the class.
            **fields: any other field of this class, instead of the recipe's.

        Raises:
            ValueError: there is no such preset, or a field is unknown or out of range.
        """
        if name not in RECIPES:
            raise ValueError(f"no preset {name!r}: known are {', '.join(RECIPES)}.")
        return cls.from_dict({**RECIPES[name], "videos": videos, "output_dir": output_dir, **fields})

    def _check_monitoring(self) -> None:
        if self.probe is not None:
            object.__setattr__(self, "probe", os.fspath(self.probe))
        check_choice("probe_year", self.probe_year, (2016, 2017))
        for logger in self.loggers:
            check_choice("loggers", logger, LOGGERS)
