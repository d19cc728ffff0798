"""What a run says of its features, and the dtype that it takes."""

import argparse

import numpy as np
import pytest
import torch

from siammae.cli.effort import Effort
from siammae.cli.inputs import load_model
from siammae.config import PropagationConfig
from siammae.network import dtypes
from siammae.propagation.propagator import Propagator
from tests.helpers import moving_square, tiny_model


def _options(model, **given):
    return argparse.Namespace(**{"device": "cpu", "dtype": "auto", "model": str(model), **given})


@pytest.fixture
def checkpoint(tmp_path):
    return tiny_model().save_pretrained(tmp_path / "model")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, torch.bfloat16),
        ({"preset": None}, torch.bfloat16),
        ({"preset": "dino"}, torch.float32),
        ({"preset": ["dino", "crw"]}, torch.float32),
        ({"preset": "dino", "dtype": "bfloat16"}, torch.bfloat16),
        ({"dtype": "float32"}, torch.float32),
        ({"dtype": "float16"}, torch.float16),
    ],
)
def test_presets_of_public_codes_take_float32_unless_asked(checkpoint, monkeypatch, given, expected):
    monkeypatch.setattr(dtypes, "bfloat16_is_faster", lambda: True)
    assert load_model(_options(checkpoint, **given)).dtype == expected


def test_effort_says_the_dtype_and_the_share_of_all_streams():
    model = Effort(tiny_model())
    assert model.line() == "features in float32, every patch encoded"
    video, masks = moving_square(1, (64, 96), 16, (8, 8))
    rules = PropagationConfig(reuse_threshold=5.0)
    for _ in range(2):
        propagator = Propagator(model, rules)
        for index in range(4):
            propagator.step(np.ascontiguousarray(video[0]), mask=masks[0] if index == 0 else None)
    assert model.line() == "features in float32, 25% of the patches encoded: the others had not changed"


def test_effort_is_the_extractor_in_everything_else():
    model = tiny_model()
    effort = Effort(model)
    assert (effort.patch_size, effort.extract_options) == (model.patch_size, model.extract_options)
    with pytest.raises(AttributeError, match="nothing_such"):
        effort.nothing_such  # noqa: B018
