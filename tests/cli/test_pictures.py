"""The commands ``reconstruct`` and ``attend``, on a small network and a made-up clip."""

import numpy as np
import pytest
import torch
from PIL import Image

import siammae
from siammae.cli import main
from siammae.frames import count_frames
from siammae.outputs import MARKER
from tests.helpers import moving_square, tiny_model, write_video


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return str(tiny_model().save_pretrained(tmp_path_factory.mktemp("weights")))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    video, _ = moving_square(frames=9, size=(48, 64), step=(0, 4))
    return write_video(tmp_path_factory.mktemp("clip") / "clip.avi", video)


def runs(*argv):
    return main([str(part) for part in argv])


def fails(capsys, *argv):
    """Run a command that must fail with one clear line."""
    assert runs(*argv) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"siammae {argv[0]}: error: ")
    return error


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


# --- reconstruct


def test_reconstruct_writes_strip_gif_and_video_into_a_folder(clip, weights, tmp_path, capsys):
    assert runs("reconstruct", clip, "-o", tmp_path / "new", "--model", weights, "--frames", 4, "--gap", 2) == 0
    names = ["reconstruction.gif", "reconstruction.mp4", "reconstruction.png"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == names
    with Image.open(tmp_path / "new" / names[0]) as image:
        assert image.n_frames == 3
    assert len(list(siammae.read_frames(tmp_path / "new" / names[1]))) == 3
    out = capsys.readouterr().out
    assert "3 frames of 32x32 pixels, 15 of 16 patches predicted in each" in out
    assert "reconstruction.gif" in out


def test_reconstruct_equals_the_library_call_and_itself(clip, weights, tmp_path):
    options = ["--start", 1, "--frames", 3, "--gap", 3, "--past", 1, "--mask-ratio", 0.6, "--seed", 4, "--size", 40]
    for name in ("a.png", "b.png"):
        assert runs("reconstruct", clip, "-o", tmp_path / name, "--model", weights, *options) == 0
    frames = list(siammae.read_frames(clip, start=1, stop=9, step=3))
    model = siammae.SiamMAE.from_pretrained(weights)
    shown = siammae.reconstruct(frames, model=model, past=1, mask_ratio=0.6, seed=4, size=40)
    expected = shown.strip(captions=["frame 1 from 4", "frame 7 from 4"])
    np.testing.assert_array_equal(pixels(tmp_path / "a.png"), expected)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_reconstruct_when_the_video_is_short_says_so(clip, weights, tmp_path, capsys):
    assert runs("reconstruct", clip, "-o", tmp_path / "a.gif", "--model", weights, "--past", "previous") == 0
    assert "the video ends after 3 of 8 frames" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["a.gif"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"-o": "out.txt"}, "out.txt: it must be a folder, or end in .png"),
        ({"--past": "next"}, "--past is 'next': it must be a number or previous"),
        ({"--past": "9"}, "past is 9: it must be the number of a frame, from 0 to 2"),
        ({"--start": "-1"}, "--start is -1: it must be at least 0"),
        ({"--start": "99"}, "no frame 99 to start at"),
        ({"--frames": "1"}, "the clip has one frame"),
        ({"--frames": "0"}, "--frames is 0"),
        ({"--gap": "0"}, "--gap is 0"),
        ({"--size": "33"}, "size is 33: it must be a multiple of the patch size 8"),
        ({"--mask-ratio": "1"}, "mask_ratio is 1.0"),
        ({"--fps": "0"}, "fps is 0"),
    ],
)
def test_reconstruct_when_input_is_wrong_says_so_in_one_line(clip, weights, tmp_path, capsys, change, message):
    options = {"-o": tmp_path / "out" / "a.gif", "--model": weights, **change}
    assert message in fails(capsys, "reconstruct", clip, *(part for option in options.items() for part in option))
    assert not list(tmp_path.glob("**/*.gif"))


def test_reconstruct_without_a_decoder_says_what_is_needed(clip, tmp_path, capsys):
    bare = tiny_model(decoder="none").save_pretrained(tmp_path / "bare")
    error = fails(capsys, "reconstruct", clip, "-o", tmp_path / "a.png", "--model", bare)
    assert 'has no decoder (config.decoder is "none")' in error


# --- attend


def test_attend_writes_maps_of_cls_alone(clip, weights, tmp_path, capsys):
    out = tmp_path / "maps"
    assert runs("attend", clip, "-o", out, "--model", weights, "--frames", 3, "--gap", 2, "--short-side", 48) == 0
    assert sorted(path.name for path in out.iterdir()) == [MARKER, "cls.png"]
    assert str(out / "cls.png") in capsys.readouterr().out
    assert pixels(out / "cls.png").shape[1] > 3 * 190


def test_attend_with_a_point_writes_matches_and_videos(clip, weights, tmp_path):
    argv = ["attend", clip, "--model", weights, "--frames", 3, "--gap", 2, "--short-side", 48, "--video"]
    for name in ("a", "b"):
        assert runs(*argv, "-o", tmp_path / name, "--point", 20, 12, "--frame", 3) == 0
    names = [MARKER, "cls.mp4", "cls.png", "point.mp4", "point.png"]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == names
    assert count_frames(tmp_path / "a" / "point.mp4") == 4  # frame 3 is added to 0, 2 and 4
    for name in names[1::2]:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("decoder", ["joint", "none", "cropmae"])
def test_attend_takes_every_decoder(clip, tmp_path, capsys, decoder):
    model = tiny_model(decoder=decoder).save_pretrained(tmp_path / "model")
    argv = ["attend", clip, "-o", tmp_path / "out", "--model", model, "--frames", 2, "--short-side", 48]
    assert runs(*argv, "--point", 20, 12) == 0
    said = "this network has no cross-attention: point.png shows features only" in capsys.readouterr().out
    assert said == (decoder != "cropmae")


def test_attend_takes_timms_networks_and_says_what_they_lack(clip, tmp_path, capsys, monkeypatch):
    def load(args):
        torch.manual_seed(0)
        options = {"embed_dim": 48, "depth": 1, "num_heads": 2, "pretrained": False}
        return siammae.TimmExtractor.from_pretrained(args.model, **options)

    monkeypatch.setattr("siammae.cli.attend.load_model", load)
    argv = ["attend", clip, "-o", tmp_path, "--frames", 2, "--short-side", 48, "--point", 20, 12, "--model"]
    assert runs(*argv, "timm/vit_small_patch16_224") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [MARKER, "cls.png", "point.png"]
    eva = "timm/eva02_tiny_patch14_224"
    assert runs(*argv, eva, "--overwrite") == 0
    assert "no cls.png: this network has no CLS token, or attention of another kind" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == [MARKER, "point.png"]
    assert "of the kind EvaAttention" in fails(capsys, *argv[:8], "--model", eva, "--overwrite")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--point", 64, 3], "the point is x 64, y 3: it must lie in the frame, which is 64 wide and 48 high"),
        (["--frame", 2], "--frame is 2 but there is no --point"),
        (["--point", 6, 3, "--frame", 40], "no frame 40 to start at"),
        (["--point", 6, 3, "--frame", -1], "start is -1"),
        (["--layer", 5], "the encoder has 2 blocks"),
        (["--short-side", 2], "at least one patch"),
        (["--point", 6, 3, "--mask-ratio", 2], "mask_ratio is 2.0"),
    ],
)
def test_attend_when_input_is_wrong_says_so_in_one_line(clip, weights, tmp_path, capsys, options, message):
    out = tmp_path / "out"
    assert message in fails(capsys, "attend", clip, "-o", out, "--model", weights, "--short-side", 48, *options)
    assert not out.exists()


@pytest.mark.parametrize("command", ["reconstruct", "attend"])
def test_output_that_is_a_file_is_refused(clip, weights, tmp_path, capsys, command):
    (tmp_path / "taken").write_text("mine")
    assert "taken, which is a file: it must be a folder" in fails(capsys, command, clip, "-o", tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "mine"


@pytest.mark.parametrize("command", ["reconstruct", "attend"])
def test_help_has_examples(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert f"siammae {command} clip.mp4 -o" in capsys.readouterr().out
