"""Networks of timm as feature extractors, against timm itself; random weights, since nothing is downloaded here."""

import pickle

import numpy as np
import pytest
import timm
import torch
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError

import siammae
from siammae.checkpoints.hub import find_checkpoint
from siammae.cli import main
from siammae.errors import CheckpointError
from siammae.network import timm_extractor as backbones
from siammae.network.loading import load_extractor
from siammae.network.timm_extractor import TimmExtractor
from tests.helpers import moving_square

SMALL = {"embed_dim": 48, "depth": 2, "num_heads": 2}
# name: (prefix tokens, native size, normalisation)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
KINDS = {
    "vit_small_patch16_224.dino": (1, 224, IMAGENET),
    "vit_base_patch16_224.mae": (1, 224, IMAGENET),
    "vit_small_patch14_dinov2.lvd142m": (1, 518, IMAGENET),
    "vit_small_patch14_reg4_dinov2.lvd142m": (5, 518, IMAGENET),
    "vit_small_patch16_dinov3.lvd1689m": (5, 256, IMAGENET),
    "vit_base_patch16_clip_224.openai": (1, 224, CLIP),
    "vit_base_patch16_siglip_224.webli": (0, 224, HALF),
    "eva02_tiny_patch14_224.mim_in22k": (1, 224, CLIP),
}
DINO = "vit_small_patch16_224.dino"


def extractor(name, *, seed=0, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TimmExtractor.from_pretrained(name, pretrained=False, **{**SMALL, **options})


def frames(height, width, count=1, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def own_features(model, video, mean, std, prefix, patch):
    """Timm's tokens as a map, the pixels normalised by hand."""
    pixels = torch.from_numpy(video).permute(0, 3, 1, 2) / 255
    pixels = (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    with torch.inference_mode():
        tokens = model.forward_features(pixels)[:, prefix:]
    grid = (video.shape[1] // patch, video.shape[2] // patch)
    return tokens.transpose(1, 2).unflatten(2, grid)


@pytest.mark.parametrize("name", KINDS)
def test_timm_features_at_native_and_other_sizes_are_timms_tokens(name):
    prefix, size, (mean, std) = KINDS[name]
    subject = extractor(name)
    patch = subject.patch_size
    assert patch == int(name.split("patch")[1][:2])
    assert subject.name == f"timm/{name}"
    for video in (frames(size, size), frames(3 * patch, 5 * patch, count=2)):
        expected = own_features(subject.model, video, mean, std, prefix, patch)
        got = subject.extract(video)
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    assert got.shape == (2, 48, 3, 5)
    assert not got.requires_grad


@pytest.mark.parametrize("name", [DINO, "vit_small_patch16_dinov3.lvd1689m"])
def test_timm_features_of_non_square_frames_equal_those_of_a_network_of_that_size(name):
    dynamic = extractor(name)
    fixed = extractor(name, dynamic_img_size=False, img_size=(32, 80))
    table = fixed.model.pos_embed
    fixed.model.load_state_dict({k: v for k, v in dynamic.model.state_dict().items() if k != "pos_embed"}, strict=False)
    if table is not None:
        pos = timm.layers.resample_abs_pos_embed(dynamic.model.pos_embed, (2, 5), (14, 14), num_prefix_tokens=1)
        fixed.model.pos_embed.data.copy_(pos)
    video = frames(32, 80)
    torch.testing.assert_close(dynamic.extract(video), fixed.extract(video), atol=1e-5, rtol=1e-5)


def test_timm_features_do_not_depend_on_the_batch_size():
    subject, video = extractor(DINO), frames(32, 48, count=5)
    expected = subject.extract(video, batch_size=5)
    torch.testing.assert_close(subject.extract(video, batch_size=2), expected, atol=1e-6, rtol=1e-5)
    with pytest.raises(ValueError, match="batch_size is 0"):
        subject.extract(video, batch_size=0)


def test_timm_features_with_layer_and_norm_are_those_of_that_block():
    full, video = extractor(DINO), frames(32, 48)
    inner = extractor(DINO, depth=1)
    inner.model.load_state_dict({k: v for k, v in full.model.state_dict().items() if "blocks.1." not in k})
    expected = inner.extract(video, norm=False)
    for layer in (0, -2):
        torch.testing.assert_close(full.extract(video, layer=layer, norm=False), expected)
        chosen = TimmExtractor(full.model, layer=layer, norm=False)
        torch.testing.assert_close(chosen.extract(video), expected)
        torch.testing.assert_close(chosen.extract(video, norm=True), inner.extract(video))
    ran = []
    full.model.blocks[1].register_forward_hook(lambda *_: ran.append(1))
    full.extract(video, layer=0)
    assert not ran


@pytest.mark.parametrize("layer", [2, -3])
def test_timm_extractor_with_wrong_layer_is_refused(layer):
    subject, match = extractor(DINO), rf"layer is {layer}: .* has 2 blocks, so it must be in \[-2, 2\)"
    with pytest.raises(ValueError, match=match):
        subject.extract(frames(32, 32), layer=layer)
    with pytest.raises(ValueError, match=match):
        TimmExtractor(subject.model, layer=layer)


def test_timm_features_with_pixel_std_use_that_divisor():
    subject, video = extractor(DINO), frames(32, 32)
    std = (0.3, 0.2, 0.1)
    expected = own_features(subject.model, video, IMAGENET[0], std, 1, 16)
    torch.testing.assert_close(subject.extract(video, pixel_std=std), expected, atol=1e-5, rtol=1e-5)


def test_timm_extractor_puts_a_network_in_eval_mode_and_keeps_its_device_and_type():
    model = timm.create_model(DINO, dynamic_img_size=True, drop_rate=0.5, **SMALL).train().to(torch.bfloat16)
    subject = TimmExtractor(model, name="mine")
    assert not model.training
    assert (subject.device, subject.dtype, subject.name) == (torch.device("cpu"), torch.bfloat16, "mine")
    assert subject.extract(frames(32, 32)).dtype == torch.bfloat16
    assert TimmExtractor(model, device="cpu", dtype=torch.float32).extract(frames(32, 32)).dtype == torch.float32
    assert TimmExtractor(model).name == "vit_small_patch16_224"


def test_timm_extractor_resizes_frames_as_siammae_does():
    subject = extractor(DINO)
    assert subject.extract(frames(50, 90), resize=32).shape == (1, 48, 2, 4)
    assert subject.extract(frames(50, 90), resize=(48, 32)).shape == (1, 48, 3, 2)


def test_timm_network_of_fixed_size_takes_that_size_only():
    subject = TimmExtractor(timm.create_model(DINO, **SMALL))
    assert subject.extract(frames(30, 50), resize=(224, 224)).shape == (1, 48, 14, 14)
    with pytest.raises(ValueError, match=r"takes frames of \(224, 224\) only, got \(32, 48\): .*dynamic_img_size=True"):
        subject.extract(frames(32, 48))
    beit = extractor("beit_base_patch16_224")  # knows no dynamic size
    assert beit.extract(frames(30, 50), resize=(224, 224)).shape == (1, 48, 14, 14)


@pytest.mark.parametrize("name", ["resnet18", "swin_tiny_patch4_window7_224", "mixer_s32_224", "hiera_tiny_224"])
def test_timm_network_without_patch_grid_is_refused(name):
    with pytest.raises(ValueError, match="has no grid of square patches that all its blocks share: pass a plain ViT"):
        TimmExtractor.from_pretrained(name, pretrained=False)


def test_network_without_timms_record_is_refused():
    model = timm.models.vision_transformer.VisionTransformer(img_size=32, embed_dim=48, depth=1, num_heads=2)
    with pytest.raises(ValueError, match="VisionTransformer has no pretrained_cfg with mean and std"):
        TimmExtractor(model)


@pytest.mark.parametrize("name", ["timm/vit_smal_patch16_224.dino", "vit_smal_patch16_224.dino"])
def test_unknown_timm_name_suggests_close_ones(name):
    with pytest.raises(ValueError, match=r"has no network 'vit_smal_.*Did you mean .*timm/vit_small_patch16_224\.dino"):
        TimmExtractor.from_pretrained(name)


def test_unknown_timm_name_like_nothing_suggests_nothing():
    with pytest.raises(ValueError, match=r"has no network 'qqqqqqqq'\.$"):
        TimmExtractor.from_pretrained("timm/qqqqqqqq")


def test_unknown_weights_of_a_timm_network_list_the_known(monkeypatch):
    with pytest.raises(
        ValueError, match=r"has no weights 'vit_small_patch16_224\.dinner': .*vit_small_patch16_224\.dino\."
    ):
        TimmExtractor.from_pretrained("timm/vit_small_patch16_224.dinner")
    monkeypatch.setattr(timm, "list_pretrained", list)
    with pytest.raises(ValueError, match="has no weights 'vit_small_patch16_224': it has none for this network"):
        TimmExtractor.from_pretrained("timm/vit_small_patch16_224")


@pytest.mark.parametrize(
    "error",
    [
        OSError("no route to host"),
        ImportError("SOCKS proxy, but no socksio"),
        HfHubHTTPError.__bases__[0]("no connection"),
        SafetensorError("header too large"),
        pickle.UnpicklingError("cut"),
        EOFError("cut"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_download_that_fails_or_is_damaged_is_a_checkpoint_error(error, monkeypatch):
    def offline(*_, **__):
        raise error

    monkeypatch.setattr(timm, "create_model", offline)
    match = (
        rf"weights of timm/vit_small_patch16_224\.dino cannot be had \({type(error).__name__}: {error}.*force-download"
    )
    with pytest.raises(CheckpointError, match=match):
        TimmExtractor.from_pretrained(f"timm/{DINO}")


def test_siammae_loader_points_timm_names_to_the_extractor():
    with pytest.raises(ValueError, match=r"'timm/vit_x' is a network of timm.*TimmExtractor\.from_pretrained"):
        find_checkpoint("timm/vit_x")


@pytest.fixture
def offline_timm(monkeypatch):
    """Give ``from_pretrained`` random small networks instead of downloads; count them."""
    made, create = [], timm.create_model

    def small(name, **options):
        made.append((name, options.pop("pretrained")))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return create(name, **{**SMALL, **options})

    monkeypatch.setattr(backbones.timm, "create_model", small)
    siammae.network.loading._load.cache_clear()
    yield made
    siammae.network.loading._load.cache_clear()


def test_propagate_masks_with_a_timm_name_follows_a_moving_square(offline_timm):
    video, masks = moving_square(frames=4, size=(64, 96), side=32, start=(16, 16), step=(0, 16))
    config = siammae.PropagationConfig(resize=64, top_k=1, temperature=0.05, radius=None)
    tracks = siammae.propagate_masks(video, masks[0], model=f"timm/{DINO}", config=config)
    scores = [siammae.region_similarity(got == 1, true == 1) for got, true in zip(tracks.labels, masks, strict=True)]
    assert min(scores) > 0.9
    assert load_extractor(f"timm/{DINO}") is load_extractor(f"timm/{DINO}")
    assert offline_timm == [(DINO, True)]


def test_command_with_a_timm_model_extracts(offline_timm, tmp_path, capsys):
    video, _ = moving_square(frames=2)
    folder = tmp_path / "frames"
    folder.mkdir()
    from PIL import Image

    for index, frame in enumerate(video):
        Image.fromarray(frame).save(folder / f"{index:05d}.png")
    out = tmp_path / "f.safetensors"
    assert main(["extract", str(folder), "-o", str(out), "--model", f"timm/{DINO}", "--device", "cpu"]) == 0
    assert "features (2, 48, 3, 4)" in capsys.readouterr().out
    assert main(["info", f"timm/{DINO}"]) == 1
    assert "is a network of timm" in capsys.readouterr().err


def test_random_baseline_of_a_timm_model_is_its_network_without_weights(offline_timm):
    from siammae.cli.entries import baseline as make_baseline

    model = load_extractor(f"timm/{DINO}")
    baseline = make_baseline("random", model, "cpu")
    assert isinstance(baseline, TimmExtractor)
    assert offline_timm == [(DINO, True), (DINO, False)]
    assert make_baseline("rgb", model, "cpu").patch_size == 16
