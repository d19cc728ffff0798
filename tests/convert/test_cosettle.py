"""Co-Settle's checkpoints: an image encoder, and an adapter that its features pass."""

import pytest
import torch

import siammae
from siammae.cli import main
from siammae.convert import convert_checkpoint
from siammae.errors import CheckpointError
from tests.convert.foreign import as_grid, foreign_tensors, normalised, plain_vit
from tests.convert.positions import averaged, dino
from tests.convert.test_convert import converted, frames, wrapped

LINEAR = "adapter.adapter.adapter_linear"
NORM = "adapter.adapter.adapter_layer_norm1"


def with_adapter(tensors, seed=1):
    """Add an adapter as the source names and shapes it; large enough for tanh to bend."""
    dim = tensors["cls_token"].shape[-1]
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        f"{LINEAR}.weight": (dim, dim),
        f"{LINEAR}.bias": (dim,),
        f"{NORM}.weight": (dim,),
        f"{NORM}.bias": (dim,),
    }
    return tensors | {name: torch.randn(shape, generator=generator) * 0.1 for name, shape in shapes.items()}


def adapted(tokens, tensors):
    """State ST_adapter.py's linear AdapterBlock: linear, tanh, layer norm with PyTorch's epsilon."""
    bent = torch.tanh(tokens @ tensors[f"{LINEAR}.weight"].T + tensors[f"{LINEAR}.bias"])
    centred = bent - bent.mean(dim=-1, keepdim=True)
    scaled = centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()
    return scaled * tensors[f"{NORM}.weight"] + tensors[f"{NORM}.bias"]


def expected(video, tensors, grid, *, heads=12, rule=dino):
    with torch.inference_mode():
        tokens = plain_vit(normalised(video), tensors, heads=heads, rule=rule)
        return as_grid(adapted(tokens, tensors), *grid)


def classifier(tensors):
    """MoCo v3 is timm's network with its head; the weights of the head are never trained."""
    return tensors | {"head.weight": torch.zeros(10, 768), "head.bias": torch.zeros(10)}


# tensors of the base, what else its file holds, family said, heads, rule of the positions
BASES = {
    "MAE, iBOT, DINO": ("mae_vitb16_encoder", dict, "auto", 12, dino),
    "MoCo v3": ("mae_vitb16_encoder", classifier, "auto", 12, dino),
    "BLIP": ("mae_vitb16_encoder", dict, "cosettle-blip", 12, averaged),
    "DINOv2": ("tcore_vits16", dict, "auto", 6, averaged),
}


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("grid", [(3, 5), (4, 18)], ids=str)  # smaller than the table, and wider
def test_converted_cosettle_has_the_features_of_the_source(base, grid, tmp_path):
    manifest, more, family, heads, rule = BASES[base]
    tensors = with_adapter(foreign_tensors(manifest))
    tensors["pos_embed"] *= 25  # as large as a trained table's values
    report, model = converted(tmp_path, wrapped("model")(more(tensors)), family=family)
    assert report.family == ("cosettle" if family == "auto" else family)
    assert (model.config.adapter, model.config.decoder) == (True, "none")
    assert set(report.mapped) == set(tensors) - {"mask_token"}
    video = frames(grid[0] * 16, grid[1] * 16, count=2)
    wanted = expected(video, tensors, grid, heads=heads, rule=rule)
    torch.testing.assert_close(model.extract(video), wanted, atol=1e-4, rtol=0)


def test_only_the_normed_patches_of_the_last_layer_are_adapted(tmp_path):
    tensors = with_adapter(foreign_tensors("mae_vitb16_encoder"))
    _, model = converted(tmp_path, tensors)
    video = frames(32, 48)
    with torch.inference_mode():
        tokens = plain_vit(normalised(video), tensors, heads=12, rule=dino)
        raw = plain_vit(normalised(video), tensors, heads=12, rule=dino, norm=False)
        inner = plain_vit(normalised(video), tensors, heads=12, rule=dino, blocks=1)
    for got, wanted in (
        (model.extract(video, cls=True), tokens[:, 0]),
        (model.extract(video, norm=False), as_grid(raw, 2, 3)),
        (model.extract(video, layer=0), as_grid(inner, 2, 3)),
    ):
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=0)


def test_whitening_comes_after_the_adapter_and_reused_tokens_pass_both(tmp_path):
    tensors = with_adapter(foreign_tensors("tcore_vits16", depth=1))
    _, model = converted(tmp_path, tensors)
    video = frames(160, 240, count=3)
    model.fit_whitening(video)
    plain = expected(video, tensors, (10, 15), heads=6, rule=averaged)
    white = (plain.movedim(1, -1) - model.whitening.mean) @ model.whitening.matrix
    torch.testing.assert_close(model.extract(video), white.movedim(-1, 1), atol=2e-3, rtol=0)
    torch.testing.assert_close(model.extract(video, whiten=False), plain, atol=1e-4, rtol=0)
    stream = model.open_stream(threshold=0)
    for index, frame in enumerate(video):
        torch.testing.assert_close(stream.extract(frame), model.extract(video)[index], atol=2e-3, rtol=0)
    saved = siammae.SiamMAE.from_pretrained(model.save_pretrained(tmp_path / "white"))
    assert torch.equal(saved.extract(video), model.extract(video))


def test_report_of_cosettle_says_that_blip_has_another_rule(tmp_path, capsys):
    file = tmp_path / "foreign.pth"
    torch.save(with_adapter(foreign_tensors("mae_vitb16_encoder", depth=1)), file)
    assert main(["convert", str(file), "-o", str(tmp_path / "ours")]) == 0
    assert "Co-Settle on BLIP looks the same but" in capsys.readouterr().out
    assert main(["info", str(tmp_path / "ours")]) == 0
    assert "patch 16, adapter," in capsys.readouterr().out
    report = convert_checkpoint(file, tmp_path / "blip", family="cosettle-blip")
    assert not any("BLIP looks" in note for note in report.notes)


def clip(tensors):
    names = ("class_embedding", "ln_pre.weight", "ln_pre.bias", LINEAR + ".weight")
    return {f"visual.{name}": torch.zeros(3) for name in names} | {"logit_scale": torch.zeros(())}


def without_cls(tensors):
    return {name: tensor for name, tensor in with_adapter(tensors).items() if name != "cls_token"}


def deeper(tensors):
    linear = {f"adapter.adapter.adapter_linear{i}.weight": torch.zeros(768, 768) for i in (1, 2)}
    return tensors | linear | {f"{NORM}.weight": torch.ones(768)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (clip, r"'visual.class_embedding'.* belong to CLIP, .*Co-Settle on CLIP cannot be loaded.*TimmExtractor"),
        (without_cls, "an adapter, but no cls_token: this is Co-Settle on I-JEPA"),
        (deeper, r"adapter_linear1.weight', 'adapter.adapter.adapter_linear2.weight'\] fit no family"),
    ],
)
def test_cosettle_on_another_encoder_or_with_another_adapter_is_refused(change, message, tmp_path):
    torch.save({"model": change(foreign_tensors("mae_vitb16_encoder", depth=1))}, tmp_path / "foreign.pth")
    with pytest.raises(CheckpointError, match=message):
        convert_checkpoint(tmp_path / "foreign.pth", tmp_path / "ours")


def test_config_with_an_adapter_and_a_decoder_is_refused():
    with pytest.raises(ValueError, match="decoder is 'cross-self': it must be 'none' with an adapter"):
        siammae.ModelConfig(adapter=True)
