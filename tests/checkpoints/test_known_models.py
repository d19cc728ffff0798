import json
from urllib.parse import urlparse

import pytest
import timm
import torch
from timm.models import get_pretrained_cfg

import siammae
from siammae.checkpoints.hub import bundled_names
from siammae.checkpoints.known_models import known_models
from siammae.cli import main
from siammae.convert.families import NAMES

MODELS = known_models()
TIMM = [model for model in MODELS if model.name.startswith("timm/")]

READ_FROM = pytest.mark.skipif(
    tuple(int(part) for part in timm.__version__.split(".")[:3]) < (1, 0, 31),
    reason="the table was read from the registry of timm 1.0.31, and older ones say less",
)


def test_names_are_distinct_and_bundled_checkpoints_are_among_them():
    names = [model.name for model in MODELS]
    assert len(set(names)) == len(names)
    assert set(bundled_names()) <= set(names)


@READ_FROM
@pytest.mark.parametrize("model", TIMM, ids=lambda model: model.name)
def test_timm_names_licences_and_addresses_are_those_of_its_registry(model):
    name = model.name.removeprefix("timm/")
    assert name in timm.list_pretrained(name.split(".")[0] + ".*")
    record = get_pretrained_cfg(name)
    assert record.hf_hub_id == model.name
    assert record.license == model.license
    plain = urlparse(record.url or "").hostname in ("dl.fbaipublicfiles.com", "storage.googleapis.com")
    assert model.gate == ("no" if plain else "unknown")
    assert model.load == f"--model {model.name}"


@READ_FROM
@pytest.mark.parametrize("model", TIMM, ids=lambda model: model.name)
def test_timm_sizes_are_those_of_the_network(model):
    with torch.device("meta"):
        network = timm.create_model(model.name.removeprefix("timm/"), num_classes=0)
    assert model.patch_size == network.patch_embed.patch_size[0]
    assert model.parameters == pytest.approx(sum(p.numel() for p in network.parameters()) / 1e6, abs=0.051)


def test_scores_have_a_source_and_others_have_none():
    for model in MODELS:
        scores = [score for score in (model.davis_2017_val, model.vip_val, model.jhmdb_test) if score is not None]
        assert bool(scores) == (model.source is not None)
        assert all(0 < score < 100 for score in scores)
        assert model.gate in ("no", "yes", "unknown")


def test_families_to_convert_are_known():
    named = [model.load.rsplit("--family ")[1] for model in MODELS if "--family" in model.load]
    assert set(named) <= set(NAMES)
    assert len(named) >= 10


def test_models_prints_every_name_with_its_score(capsys):
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for model in MODELS:
        (line,) = [line for line in lines if line.startswith(model.name + " ")]
        assert model.license in line
        for score in (model.davis_2017_val, model.vip_val, model.jhmdb_test):
            assert score is None or f" {score:.1f} " in line


def test_models_as_json_holds_everything(capsys):
    assert main(["models", "--json"]) == 0
    assert [siammae.KnownModel(**values) for values in json.loads(capsys.readouterr().out)] == list(MODELS)
