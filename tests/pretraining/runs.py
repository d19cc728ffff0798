"""Pretraining runs so small that they take a fraction of a second."""

import json

import pytest
import torch

from siammae.config import PretrainConfig
from siammae.network.model import SiamMAE
from siammae.pretraining.checkpoint import state_files, state_step
from tests.helpers import moving_square, tiny_config, write_video

# A parameter: weights shared out over processes.
FSDP = pytest.param(
    "fsdp",
    marks=pytest.mark.skipif(
        not hasattr(torch.cpu.Stream, "record_event"), reason="PyTorch 2.6 cannot share weights out on the CPU"
    ),
)


def run_config(videos="clips", output_dir="run", **fields):
    """Two steps an epoch for four videos; any field can be another."""
    defaults = {
        "model": tiny_config(),
        "mask_ratio": 0.75,
        "frame_gap": (1, 4),
        "samples_per_video": 2,
        "epochs": 4,
        "warmup_epochs": 1,
        "batch_size": 4,
        "base_lr": 0.05,
        "precision": "fp32",
    }
    return PretrainConfig(videos=str(videos), output_dir=str(output_dir), **{**defaults, **fields})


def make_clips(folder, count=4, frames=8, size=(40, 48)):
    """Write videos with squares that move differently."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        video, _ = moving_square(frames, size, side=12, start=(0, 2 * index), step=(2, index % 3 + 1), seed=index)
        write_video(folder / f"clip{index}.avi", video)
    return folder


def read_log(output_dir):
    return [json.loads(line) for line in (output_dir / "log.jsonl").read_text().splitlines()]


def same_weights(one, other):
    """Whether two exported models have bit-identical tensors."""
    states = [SiamMAE.from_pretrained(folder).state_dict() for folder in (one, other)]
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def saved_step(output_dir):
    """The step of the latest saved state, None where there is none."""
    files = state_files(output_dir)
    return state_step(files[0]) if files else None
