"""A name becomes a network, once a process."""

from siammae.features import PixelExtractor
from siammae.network.loading import load_extractor


def test_load_extractor_loads_a_name_once(loaded, tmp_path):
    first = load_extractor("owner/name")
    assert load_extractor("owner/name") is first
    assert load_extractor(tmp_path) is load_extractor(str(tmp_path))
    assert loaded == ["owner/name", str(tmp_path)]


def test_load_extractor_returns_an_extractor_as_it_is(loaded):
    extractor = PixelExtractor(4)
    assert load_extractor(extractor) is extractor
    assert loaded == []
