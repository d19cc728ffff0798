"""What is recommended for each cost."""

import pytest

from siammae import HogExtractor, PixelExtractor, SiamMAE
from siammae.config import PropagationConfig
from siammae.config.presets import QUALITIES


class Able:
    """An extractor that knows every option."""

    patch_size = 16
    propagation = PropagationConfig(temperature=0.07, radius=9, min_max=True)
    extract_options = frozenset({"region", "pool_keys"})


@pytest.mark.parametrize("quality", list(QUALITIES))
def test_recommended_keeps_the_extractors_own_rules_and_sets_size_and_fineness(quality):
    own, rules = Able.propagation, PropagationConfig.recommended(Able(), quality)
    assert (rules.temperature, rules.min_max, rules.top_k) == (0.07, True, own.top_k)
    assert rules.resize == 16 * QUALITIES[quality][0]
    assert rules.focus_margin is not None
    assert rules.pool_keys == 2
    assert (rules.refine, rules.label_cells > 1) == ("local-colour", True)


def test_better_quality_sees_more_patches():
    sides = [PropagationConfig.recommended(Able(), quality).resize for quality in ("fast", "balanced", "best")]
    assert sides == sorted(set(sides))


def test_recommended_leaves_out_what_an_extractor_cannot():
    for extractor in (PixelExtractor(8), HogExtractor(8)):
        rules = PropagationConfig.recommended(extractor)
        assert (rules.focus_margin, rules.pool_keys) == (None, 1)
        assert rules.refine == "local-colour"
    assert PropagationConfig.recommended(PixelExtractor(8), "best").resize == 480


def test_bundled_network_recommends_balanced_by_itself():
    model = SiamMAE.from_pretrained("siammae-ti8")
    assert model.propagation == PropagationConfig.recommended(model) == PropagationConfig.recommended(model, "balanced")


def test_for_extractor_changes_nothing_that_it_can():
    rules = PropagationConfig(focus_margin=3, pool_keys=2)
    assert rules.for_extractor(Able()) == rules
    assert rules.for_extractor(PixelExtractor()) == PropagationConfig()


def test_unknown_quality_is_refused():
    with pytest.raises(ValueError, match="quality is 'superb': it must be one of 'fast', 'balanced', 'best'"):
        PropagationConfig.recommended(Able(), "superb")
