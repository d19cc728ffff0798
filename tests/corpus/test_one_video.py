"""One video: in bounded memory, in every type, whole or not at all."""

import itertools
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import siammae
from siammae.corpus.packing import bytes_per_frame, pack
from siammae.corpus.principal import Components, Moments, fit_components
from siammae.features import PixelExtractor
from tests.helpers import moving_square, tiny_model, write_video

ROOT = Path(__file__).resolve().parents[2]
FRAMES, _ = moving_square(9, (32, 48), 12, (4, 4))


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(params=["safetensors", "zarr"])
def kind(request):
    return request.param


def test_features_are_those_of_the_library(model, tmp_path, kind):
    out = tmp_path / f"f.{kind}"
    done = siammae.extract_to(FRAMES, out, model=model, batch_size=4)
    expected = model.extract(list(FRAMES), batch_size=4)
    assert (done.frames, done.shape, done.size) == (9, (32, 4, 6), (32, 48))
    with siammae.open_features(out) as stored:
        assert stored.shape == (9, 32, 4, 6)
        np.testing.assert_array_equal(stored[:], expected.numpy())
        np.testing.assert_array_equal(stored[7], expected[7].numpy())
        np.testing.assert_array_equal(stored[[8, -9]], expected[[8, 0]].numpy())
        assert torch.equal(stored.torch(slice(2, 5)), expected[2:5])
        assert stored[5:5].shape == (0, 32, 4, 6)


def test_zarr_has_a_chunk_a_frame(model, tmp_path):
    import zarr

    siammae.extract_to(FRAMES, tmp_path / "f.zarr", model=model, store="int8")
    group = zarr.open_group(str(tmp_path / "f.zarr"), mode="r")
    assert group["features"].chunks == (1, 32, 4, 6)
    assert group["features"].dtype == np.int8


@pytest.mark.parametrize("scale", ["channel", "patch"])
def test_int8_is_off_by_half_a_step_at_most(model, tmp_path, kind, scale):
    out = tmp_path / f"f.{kind}"
    siammae.extract_to(FRAMES, out, model=model, store="int8", scale=scale)
    expected = model.extract(list(FRAMES), batch_size=4)
    axes = (1,) if scale == "patch" else (2, 3)
    steps = expected.abs().amax(dim=axes, keepdim=True) / 127
    off = (siammae.open_features(out).torch() - expected).abs()
    assert bool((off <= steps * 0.501).all())
    assert off.max() > 0


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_int8_with_any_number_of_channels_is_readable_by_safetensors(tmp_path, channels):
    """Scales lie at even addresses, however many bytes are before them."""
    size = (8 * 3, 8 * 3)
    frames = np.random.default_rng(0).integers(0, 256, (3, *size, 3), dtype=np.uint8)
    out = tmp_path / "f.safetensors"
    siammae.extract_to(frames, out, model=PixelExtractor(8), store="int8", pca=channels)
    tensors = load_file(out)
    assert tensors["features"].shape == (3, channels, 3, 3)
    assert tensors["scale"].shape == (3, channels, 1, 1)
    assert set(tensors) - {"features", "scale"} <= {"padding"}
    expected = (tensors["features"].float() * tensors["scale"]).numpy()
    np.testing.assert_array_equal(siammae.open_features(out)[:], expected)


def test_half_is_float16_and_refuses_what_it_cannot_hold(model, tmp_path):
    siammae.extract_to(FRAMES, tmp_path / "f.safetensors", model=model, store="float16")
    tensors = load_file(tmp_path / "f.safetensors")
    assert torch.equal(tensors["features"], model.extract(list(FRAMES), batch_size=4).half())
    config = siammae.ExtractionConfig(store="float16")
    with pytest.raises(ValueError, match="too large for float16, which ends at 65504"):
        pack(torch.full((1, 2, 1, 1), 1e5), config)
    with pytest.raises(ValueError, match="NaN or infinite values, which int8 cannot hold"):
        pack(torch.full((1, 2, 1, 1), torch.inf), config.replace(store="int8"))


def test_pooled_features_are_one_vector_a_frame(model, tmp_path):
    expected = model.extract(list(FRAMES), batch_size=4)
    siammae.extract_to(FRAMES, tmp_path / "mean.safetensors", model=model, pool="mean")
    torch.testing.assert_close(siammae.open_features(tmp_path / "mean.safetensors").torch(), expected.mean(dim=(2, 3)))
    siammae.extract_to(FRAMES, tmp_path / "cls.safetensors", model=model, pool="cls", store="int8")
    cls = model.extract(list(FRAMES), batch_size=4, cls=True)
    assert cls.shape == (9, 32)
    torch.testing.assert_close(siammae.open_features(tmp_path / "cls.safetensors").torch(), cls, atol=0.05, rtol=0)
    with pytest.raises(ValueError, match="PixelExtractor has no CLS token: use pool='mean'"):
        siammae.extract_to(FRAMES, tmp_path / "a.safetensors", model=PixelExtractor(8), pool="cls")
    with pytest.raises(ValueError, match="PixelExtractor has no option layer"):
        siammae.extract_to(FRAMES, tmp_path / "a.safetensors", model=PixelExtractor(8), layer=1)


def test_cls_of_the_encoder_is_its_first_token(model):
    whole = model.encoder(model.encoder.embed(_normal(model)))
    torch.testing.assert_close(model.extract(FRAMES[:1], cls=True), whole[:, 0])


def _normal(model):
    from siammae.features import normalize, to_batch

    return normalize(to_batch([FRAMES[0]], model.device), model.config.pixel_mean, model.config.pixel_std, model.dtype)


def test_cls_of_timm_is_its_own_and_networks_without_one_are_refused():
    extractor = siammae.TimmExtractor.from_pretrained("vit_tiny_patch16_224", pretrained=False, depth=2)
    frame = np.zeros((1, 224, 224, 3), np.uint8)
    pixels = (torch.zeros(1, 3, 224, 224) - torch.tensor(extractor.pixel_mean).view(3, 1, 1)) / torch.tensor(
        extractor.pixel_std
    ).view(3, 1, 1)
    with torch.no_grad():
        expected = extractor.model.forward_features(pixels)[:, 0]
    torch.testing.assert_close(extractor.extract(frame, cls=True), expected)
    without = siammae.TimmExtractor.from_pretrained("vit_base_patch16_siglip_224", pretrained=False, depth=1)
    with pytest.raises(ValueError, match="has no CLS token: pool its patches instead"):
        without.extract(frame, cls=True)


def test_frames_are_chosen_and_found_by_their_numbers(model, tmp_path):
    out = tmp_path / "f.safetensors"
    done = siammae.extract_to(FRAMES, out, model=model, start=2, stop=8, every=3)
    stored = siammae.open_features(out)
    assert (done.frames, list(stored.numbers)) == (2, [2, 5])
    np.testing.assert_array_equal(stored.frame(5), model.extract(FRAMES[5:6])[0].numpy())
    with pytest.raises(IndexError, match=r"frame 4 of .* is not stored: there are 2, from 2 to 5, every 3"):
        stored.frame(4)
    with pytest.raises(IndexError, match=r"frame 2 of .*: there are 2, from 0 to 1"):
        stored[2]


def test_batches_take_no_more_of_an_endless_video_than_they_need(model):
    taken = itertools.count()
    endless = (FRAMES[next(taken) % len(FRAMES)] for _ in itertools.count())
    batches = siammae.extract_batches(endless, model=model, batch_size=3, pool="mean")
    first = [next(batches), next(batches)]
    assert [tuple(one.shape) for one in first] == [(3, 32), (3, 32)]
    assert next(taken) == 6
    expected = model.extract(list(FRAMES[:3]), batch_size=3).mean(dim=(2, 3))
    torch.testing.assert_close(first[0], expected)
    with pytest.raises(ValueError, match="pca is 3: batches have all channels"):
        siammae.extract_batches(FRAMES, model=model, pca=3)


def test_size_is_said_before_and_a_disk_that_is_too_small_is_refused(model, tmp_path, monkeypatch):
    said = []
    out = tmp_path / "f.safetensors"
    siammae.extract_to(FRAMES, out, model=model, say=said.append, store="int8")
    (line,) = said
    need = 9 * bytes_per_frame((32, 4, 6), siammae.ExtractionConfig(store="int8"))
    assert f"will have about {need / 1000:.3g} kB: 9 frames of 32 x 4 x 6 int8" in line
    assert 0 < out.stat().st_size - need < 3000  # the header
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**6, 10**6 - 1000, 1000))
    with pytest.raises(OSError, match=r"would need about 27\.6 kB, but .* has 1 kB left\. Store less"):
        siammae.extract_to(FRAMES, tmp_path / "g.safetensors", model=model)
    assert [path.name for path in tmp_path.iterdir()] == ["f.safetensors"]


def test_a_video_that_breaks_off_leaves_nothing(model, tmp_path, kind):
    def broken():
        yield from FRAMES
        raise OSError("the camera is gone")

    with pytest.raises(OSError, match="the camera is gone"):
        siammae.extract_to(broken(), tmp_path / f"f.{kind}", model=model)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match=r"the frames? .*size|but the first was"):
        siammae.extract_to([*FRAMES, FRAMES[0][:16]], tmp_path / f"f.{kind}", model=model)
    assert list(tmp_path.iterdir()) == []


def test_results_are_replaced_only_when_asked_for(model, tmp_path, kind):
    out = tmp_path / f"f.{kind}"
    siammae.extract_to(FRAMES, out, model=model)
    with pytest.raises(ValueError, match="already: choose another output, or allow that it is replaced"):
        siammae.extract_to(FRAMES, out, model=model, store="int8")
    assert siammae.open_features(out).metadata["rules"].find('"int8"') < 0
    siammae.extract_to(FRAMES[:3], out, model=model, store="int8", overwrite=True)
    assert siammae.open_features(out).shape == (3, 32, 4, 6)
    assert not [path for path in tmp_path.rglob(".*") if path.name != ".siammae"]


def test_zarr_of_another_program_is_never_mixed_with_ours(model, tmp_path):
    (tmp_path / "f.zarr" / "features").mkdir(parents=True)
    (tmp_path / "f.zarr" / "features" / "zarr.json").write_text("mine")
    with pytest.raises(ValueError, match="holds features, which siammae did not write"):
        siammae.extract_to(FRAMES, tmp_path / "f.zarr", model=model, overwrite=True)
    assert (tmp_path / "f.zarr" / "features" / "zarr.json").read_text() == "mine"


def test_principal_components_are_those_of_the_covariance():
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((500, 6)) @ rng.standard_normal((6, 6)) + 3
    features = torch.from_numpy(vectors.astype(np.float32)).reshape(5, 10, 10, 6).permute(0, 3, 1, 2)
    found = fit_components(Moments.of([features[:2], features[2:]]), 3)
    centred = vectors - vectors.mean(axis=0)
    _, values, axes = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(np.abs(found.axes.numpy() @ axes[:3].T), np.eye(3), atol=1e-4)
    np.testing.assert_allclose(found.variance.numpy(), values[:3] ** 2 / 500, rtol=1e-4)
    assert found.share == pytest.approx((values[:3] ** 2).sum() / (values**2).sum(), rel=1e-4)
    back = found.restore(found.apply(features).numpy())
    assert np.square(back - features.numpy()).mean() == pytest.approx((values[3:] ** 2).sum() / 500 / 6, rel=1e-3)
    whole = fit_components(Moments.of([features]), 6)
    np.testing.assert_allclose(whole.restore(whole.apply(features).numpy()), features.numpy(), atol=1e-4)
    with pytest.raises(
        ValueError, match="pca is 7, but the sample has 500 vectors of 6 channels: it must be at most 6"
    ):
        fit_components(Moments.of([features]), 7)


def test_principal_components_lie_beside_and_bring_channels_back(model, tmp_path):
    video = write_video(tmp_path / "v.mp4", FRAMES)
    out = tmp_path / "f.safetensors"
    siammae.extract_to(video, out, model=model, pca=30)
    stored = siammae.open_features(out)
    assert stored.shape == (9, 30, 4, 6)
    expected = model.extract(video, batch_size=4).numpy()
    off = np.square(stored.read(restore=True) - expected).mean() / expected.var()
    assert off < 0.01
    Components.load(tmp_path / "f.pca.safetensors")._replace(mean=torch.ones(32)).save(tmp_path / "f.pca.safetensors")
    with pytest.raises(ValueError, match="its components are others"):
        stored.read(restore=True)
    with pytest.raises(ValueError, match="needs a look at the video first"):
        siammae.extract_to(iter(FRAMES), tmp_path / "g.safetensors", model=model, pca=3)


def test_damaged_and_foreign_files_are_refused_in_words(model, tmp_path):
    out = tmp_path / "f.safetensors"
    siammae.extract_to(FRAMES, out, model=model)
    whole = out.read_bytes()
    for name, data in {"cut": whole[:-10], "header": whole[:100], "text": b"hello", "empty": b""}.items():
        place = tmp_path / f"{name}.safetensors"
        place.write_bytes(data)
        with pytest.raises(ValueError, match=f"{name}.safetensors holds no features of siammae's, or is damaged"):
            siammae.open_features(place)
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="it does not say that it is"):
        siammae.open_features(tmp_path / "model" / "model.safetensors")
    with pytest.raises(FileNotFoundError, match="pass what siammae extract wrote"):
        siammae.open_features(tmp_path / "gone.safetensors")


def test_without_zarr_it_is_said_how_to_install_it(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(ImportError, match=r'pip install "siammae\[zarr\]"'):
        siammae.extract_to(FRAMES, tmp_path / "f.zarr", model=model)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("every", 0, "every is 0: it must be at least 1"),
        ("stop", 3, "stop is 3: it must be above start, 5, or None"),
        ("store", "int4", "store is 'int4': it must be one of 'float32', 'float16', 'int8'"),
        ("pool", "max", "pool is 'max': it must be one of None, 'mean', 'cls'"),
        ("pca", 0, "pca is 0: it must be at least 1, or None"),
        ("start", -1, "start is -1: it must be at least 0"),
        ("reader", "vlc", "reader is 'vlc'"),
    ],
)
def test_settings_out_of_range_are_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        siammae.ExtractionConfig(**{"start": 5, field: value})


PEAK = """
import resource, sys
import numpy as np
import siammae
frame = np.zeros((32, 32, 3), np.uint8)
frames = (frame + np.uint8(i % 200) for i in range(int(sys.argv[1])))
siammae.extract_to(frames, sys.argv[2], model=siammae.PixelExtractor(8), batch_size=8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has other units")
def test_memory_of_ten_thousand_frames_is_that_of_ten(tmp_path):
    def peak(count):
        argv = [sys.executable, "-c", PEAK, str(count), str(tmp_path / f"{count}.safetensors")]
        return int(subprocess.run(argv, capture_output=True, text=True, check=True, cwd=ROOT).stdout)

    few, many = peak(10), peak(10_000)
    assert (tmp_path / "10000.safetensors").stat().st_size > 10_000 * 12_288
    assert many < few * 1.05
