"""From options to rules: nothing is said twice, and any text is a value or a refusal."""

import argparse

import pytest

from siammae.cli.inputs import assignments, propagation_changes, propagation_config
from siammae.config import PropagationConfig
from siammae.features import PixelExtractor


def options(*, fields=(), **given):
    plain = {"top_k": None, "temperature": None, "radius": None, "queue_length": None, "short_side": None}
    plain |= {"preset": None, "quality": None}
    return argparse.Namespace(set=list(fields), **(plain | given))


@pytest.mark.parametrize(
    ("given", "field", "option"),
    [
        ({"short_side": 64}, "resize=48", "--set resize and --short-side"),
        ({"short_side": [64, 96]}, 'resize_side="long"', "--set resize_side and --short-side"),
        ({"top_k": 3}, "top_k=4", "--set top_k and --top-k"),
        ({"queue_length": 0}, "queue_length=4", "--set queue_length and --queue-length"),
    ],
)
def test_an_option_and_set_for_one_field_are_refused(given, field, option):
    with pytest.raises(ValueError, match=f"{option} say the same in two ways: give one of them"):
        propagation_changes(options(fields=[field], **given))


def test_set_takes_json_or_text_and_each_field_once():
    assert assignments(["a=3", "b=floor", "c=[1, 2]", "d="]) == {"a": 3, "b": "floor", "c": [1, 2], "d": ""}
    with pytest.raises(ValueError, match="--set a is given twice: give it once"):
        assignments(["a=3", "b=1", "a=3"])


@pytest.mark.parametrize("value", ["[" * 50_000, "1" * 5000, '{"a":' * 20_000], ids=["lists", "digits", "dictionaries"])
def test_values_that_json_cannot_hold_are_text(value):
    assert assignments([f"top_k={value}"]) == {"top_k": value}
    with pytest.raises(ValueError, match=r"top_k is '.*: it must be a whole number") as refusal:
        PropagationConfig().replace(top_k=value)
    assert len(str(refusal.value)) < 400


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("min_max=yes", "min_max is 'yes': it must be True or False"),
        ("keep_ties=1", "keep_ties is 1: it must be True or False"),
        ("resize=" + "[" * 600 + "]" * 600, "lists lie in lists deeper than 8"),
    ],
)
def test_a_value_that_no_field_can_have_is_refused(field, message):
    with pytest.raises(ValueError, match=message):
        PropagationConfig().replace(**assignments([field]))


class Recommending(PixelExtractor):
    """An extractor with rules of its own."""

    propagation = PropagationConfig(top_k=3, resize=64)


def test_rules_are_the_models_own_a_preset_or_a_quality_changed_by_options():
    model = Recommending(8)
    assert propagation_config(options(), model) == model.propagation
    assert propagation_config(options(preset="dino"), model) == PropagationConfig.preset("dino")
    best = PropagationConfig.recommended(model, "best")
    assert propagation_config(options(quality="best"), model) == best
    assert propagation_config(options(quality="best", short_side=96, top_k=9), model) == best.replace(
        resize=96, top_k=9
    )
    with pytest.raises(ValueError, match="--preset dino and --quality fast are both given: give one of them"):
        propagation_config(options(preset="dino", quality="fast"), model)
