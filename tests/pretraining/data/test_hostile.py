"""Sources that were made to do harm, or by mistake: each is refused or skipped, named, soon and in little memory."""

import io
import json
import os
import shutil
import signal
import tarfile
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from siammae.cli import main
from siammae.clips import open_clip
from siammae.clips.clip import Clip
from siammae.clips.listing import find_clips
from siammae.clips.open_clip import OpenClip
from siammae.errors import DatasetError, VideoReadError
from siammae.pretraining import pretrain
from siammae.pretraining.data.pairs import VideoPairs
from siammae.pretraining.data.sharding import ShardSettings, write_shards
from tests.pretraining.runs import make_clips, run_config, saved_step

NOT_UTF8 = os.fsdecode(b"clip\xff\xfe.png")
FORGED = "a\nok.png\tfine\x1b[2J.png"


@contextmanager
def within(seconds):
    """Fail instead of hanging."""

    def stop(*_):
        raise TimeoutError(f"not done within {seconds} s")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return make_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture
def shards(clips, tmp_path):
    write_shards(clips, tmp_path / "shards", ShardSettings(short_side=36), workers=1)
    return tmp_path / "shards"


def rewritten(shards, change):
    """Change the description of the first clip in its place, padded with spaces."""
    path = shards / "clips-000000.tar"
    data = bytearray(path.read_bytes())
    size = tarfile.TarInfo.frombuf(bytes(data[:512]), "utf-8", "strict").size
    room = -(-size // 512) * 512
    content = json.loads(data[512 : 512 + size])
    text = change(content)
    text = text if isinstance(text, bytes) else json.dumps(content).encode()
    member = tarfile.TarInfo("00000000.json")
    member.size = len(text)
    assert len(text) <= room
    data[: 512 + room] = member.tobuf(tarfile.USTAR_FORMAT) + text.ljust(room)
    path.write_bytes(data)
    return content["name"]


@pytest.mark.parametrize("size", [-1, -512, -1024, -(2**40), 2**40])
def test_tar_whose_member_has_an_impossible_size_is_refused(tmp_path, size):
    text = json.dumps({"layout": "siammae shards 1", "name": "a", "fps": 25, "count": 0, "length": 0, "step": 1})
    text = (text[:-1] + ', "bytes": []}').encode()
    first, second = tarfile.TarInfo("0.json"), tarfile.TarInfo("0.0.jpg")
    first.size, second.size = len(text), size
    path = tmp_path / "a.tar"
    head = first.tobuf(tarfile.USTAR_FORMAT) + text.ljust(512, b"\0")
    path.write_bytes(head + second.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with (
        within(20),
        pytest.raises(
            DatasetError, match=rf"a\.tar is no shard of siammae's: the member at byte 1024 has a size of {size}"
        ),
    ):
        find_clips(path)


MALFORMED = {
    "a number as text": lambda said: said.update(count="8"),
    "a negative length": lambda said: said.update(length=-1),
    "an endless length": lambda said: said.update(length=10**18),
    "step 0": lambda said: said.update(step=0),
    "no step": lambda said: said.pop("step"),
    "no rate": lambda said: said.update(fps=None),
    "no number as rate": lambda said: said.update(fps=float("nan")),
    "frames missing": lambda said: said["bytes"].pop(),
    "a frame larger than the file": lambda said: said["bytes"].__setitem__(0, 10**15),
    "a truth as size": lambda said: said["bytes"].__setitem__(0, True),
    "sizes that are none": lambda said: said.update(bytes={"a": 1}),
    "sizes that are a number": lambda said: said.update(bytes=7),
    "another name": lambda said: said.update(name=7),
    "nested too deep": lambda said: b"[" * 500,
    "a list": lambda said: b"[]",
    "nothing": lambda said: b"",
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_clip_with_a_malformed_description_is_an_unreadable_clip(shards, kind):
    clip = next(clip for clip in find_clips(shards) if clip.offset == 0)
    rewritten(shards, MALFORMED[kind])
    with OpenClip(clip) as opened, pytest.raises(VideoReadError, match=r"holds no clip of siammae's at byte 0 \("):
        list(opened.frames([0]))


@pytest.mark.parametrize("workers", [0, 1])
def test_run_goes_on_over_a_malformed_description_and_names_it(shards, tmp_path, workers):
    name = rewritten(shards, MALFORMED["step 0"])
    pretrain(run_config(shards, tmp_path / "run", epochs=2, max_skipped=0.5, workers=workers), device="cpu")
    assert saved_step(tmp_path / "run") == 4
    assert [line.split("\t")[0] for line in (tmp_path / "run" / "skipped.txt").read_text().splitlines()] == [name]


def test_description_that_is_too_long_is_not_read(shards):
    path = shards / "clips-000000.tar"
    member = tarfile.TarInfo("00000000.json")
    member.size = 2**25
    with path.open("r+b") as file:
        file.write(member.tobuf(tarfile.USTAR_FORMAT))
        file.truncate(2**26)  # a hole
    with pytest.raises(DatasetError, match=r"size of the description is 33,554,432: at most 16,777,216 are read"):
        find_clips(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index: index["shards"][0]["clips"][0].__setitem__(1, -5), r"a clip's place is -5: it must be"),
        (lambda index: index["shards"][0]["clips"][0].__setitem__(1, 10**30), r"a clip's place is 1000.*: it must be"),
        (
            lambda index: index["shards"][0]["clips"][0].__setitem__(0, [1]),
            r"a clip's name is \[1\]: it must be a text",
        ),
        (lambda index: index.update(shards=7), r"is damaged \(TypeError"),
        (lambda index: index["shards"][0].update(file="a\0b"), r"is damaged|is not there"),
    ],
)
def test_damaged_index_is_refused(shards, change, message):
    index = json.loads((shards / "index.json").read_text())
    change(index)
    (shards / "index.json").write_text(json.dumps(index))
    with pytest.raises(DatasetError, match=message):
        find_clips(shards)


def test_index_nested_too_deep_is_no_index_and_ends_no_command(shards, clips, capsys):
    (shards / "index.json").write_text("[" * 100_000)
    with pytest.raises(DatasetError, match=r"but no index\.json of siammae's shards"):
        find_clips(shards)
    assert main(["shard", str(clips), "-o", str(shards), "--quiet"]) == 1
    assert "is damaged (JSON nested too deep): if siammae shard made it, delete it" in capsys.readouterr().err


def test_progress_that_lacks_its_shards_is_refused(shards, clips):
    index = json.loads((shards / "index.json").read_text())
    del index["handled"]
    (shards / "index.json").write_text(json.dumps(index))
    with pytest.raises(
        DatasetError, match=r"index\.json is damaged \(KeyError\('handled'\)\): delete it and shard again"
    ):
        write_shards(clips, shards, ShardSettings(short_side=36))


def test_foreign_error_of_a_decoder_is_an_unreadable_clip_and_no_memory_is_not(clips, monkeypatch):
    def fail(*_):
        raise error

    monkeypatch.setattr(open_clip, "open_reader", fail)
    for error in (TypeError("bad operand"), ZeroDivisionError(), SystemError("x")):
        with (
            OpenClip(Clip("a", clips / "a.avi")) as clip,
            pytest.raises(VideoReadError, match=rf"{type(error).__name__}"),
        ):
            clip.count  # noqa: B018
    error = MemoryError()
    with pytest.raises(MemoryError):
        VideoPairs(find_clips(clips), run_config(clips))[0]


def test_photograph_with_bad_exif_is_read_or_skipped_and_ends_nothing(tmp_path):
    """Its camera's block leads nowhere and its resolution is text: Pillow fails with a TypeError or a struct.error."""
    entries = bytes.fromhex("0003 0112 0003 00000001 00060000 011a 0002 00000004 fffe0000 8769 0004 00000001 ffffffff")
    (tmp_path / "photos").mkdir()
    for index in range(4):
        exif = b"Exif\0\0MM\0*\0\0\0\x08" + entries + bytes(4) if index == 0 else b""
        noise = np.random.default_rng(index).integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "photos" / f"{index}.jpg", exif=exif)
    config = run_config(tmp_path / "photos", tmp_path / "run", still_share=1.0, epochs=1, workers=1, max_skipped=0.5)
    pretrain(config, device="cpu")
    assert saved_step(tmp_path / "run") == 2


def photograph(path, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    with path.open("wb") as file:
        Image.fromarray(noise).save(file, "PNG")
    return noise


@pytest.fixture
def odd_names(tmp_path):
    """A folder with two sound pictures, and two broken ones: one's name is not UTF-8, the other's forges lines."""
    folder = tmp_path / "odd"
    folder.mkdir()
    for seed in range(2):
        photograph(folder / f"{seed}.png", seed)
    for name in (NOT_UTF8, FORGED):
        (folder / name).write_bytes(b"no picture")
    return folder


def test_names_that_are_not_utf8_or_forge_lines_are_escaped_where_they_are_written(odd_names, tmp_path, caplog, capsys):
    config = run_config(odd_names, tmp_path / "run", epochs=4, max_skipped=0.9, still_share=1.0)
    pretrain(config, device="cpu", max_steps=1)
    pretrain(config, device="cpu", resume=tmp_path / "run")
    escaped = {r"clip\udcff\udcfe.png", r"a\nok.png\tfine\x1b[2J.png"}
    lines = (tmp_path / "run" / "skipped.txt").read_text().splitlines()
    assert {line.split("\t")[0] for line in lines} == escaped
    assert all(line.count("\t") == 1 for line in lines)
    assert set((tmp_path / "run" / "videos.txt").read_text().splitlines()) == escaped | {"0.png", "1.png"}
    assert "\x1b" not in caplog.text
    assert main(["shard", str(odd_names), "-o", str(tmp_path / "shards"), "--short-side", "32", "--quiet"]) == 0
    out = capsys.readouterr().out
    assert "2 clips in 1 shards" in out
    assert "\x1b" not in out
    assert all(f"\n  {name}: " in out for name in escaped)
    for name in ("0.png", "1.png"):
        (odd_names / name).unlink()
    assert main(["shard", str(odd_names), "-o", str(tmp_path / "none"), "--quiet"]) == 1
    err = capsys.readouterr().err
    assert "\x1b" not in err
    assert all(f"\n  {name}: " in err for name in escaped)


def test_sound_clip_of_any_name_is_read_from_a_folder_and_from_shards(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    name = os.fsdecode(b"a\xff.png")
    noise = photograph(folder / name)
    write_shards(folder, tmp_path / "shards", ShardSettings(short_side=None, format="png"))
    for source in (folder, tmp_path / "shards"):
        assert [clip.name for clip in find_clips(source)] == [name]
        with OpenClip(find_clips(source)[0]) as clip:
            assert np.array_equal(next(clip.frames([0]))[1], noise)


def test_fifo_is_no_clip_and_no_source(clips, tmp_path):
    folder = shutil.copytree(clips, tmp_path / "clips")
    os.mkfifo(folder / "fifo.mp4")
    with within(20):
        assert len(find_clips(folder)) == 4
        for name in ("fifo.mp4", "list.txt", "cuts.csv", "a.tar"):
            if not (folder / name).exists():
                os.mkfifo(folder / name)
            with pytest.raises(ValueError, match=rf"{name} is neither a file nor a folder: pass a folder of videos"):
                find_clips(folder / name)


def test_links_are_followed_in_folders_and_lists_alike_and_clips_named_after_them(clips, tmp_path):
    folder = tmp_path / "links"
    folder.mkdir()
    (folder / "a.avi").symlink_to(clips / "clip0.avi")
    (folder / "dead.avi").symlink_to(clips / "nowhere.avi")
    (folder / "more").symlink_to(clips, target_is_directory=True)
    (folder / "list.txt").write_text("a.avi\nmore/clip1.avi\n")
    assert [clip.name for clip in find_clips(folder)] == ["a.avi"]
    assert [clip.name for clip in find_clips(folder / "list.txt")] == ["a.avi", "more/clip1.avi"]
    (folder / "list.txt").write_text("more/../../clips/clip0.avi\n")
    with pytest.raises(ValueError, match="which leaves"):
        find_clips(folder / "list.txt")
    (folder / "list.txt").write_text("dead.avi\n")
    with pytest.raises(FileNotFoundError, match=r"lists 'dead\.avi', but there is no file"):
        find_clips(folder / "list.txt")


def test_list_with_a_zero_byte_and_table_with_a_huge_field_are_named(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"a\0b.avi\n")
    with pytest.raises(FileNotFoundError, match=r"list\.txt lists 'a\\x00b\.avi', but there is no file"):
        find_clips(tmp_path / "list.txt")
    (tmp_path / "cuts.csv").write_text("path,start,stop\n" + "a" * 200_000 + ",1,2\n")
    with pytest.raises(ValueError, match=r"cuts\.csv, line 2 cannot be read as a table: field larger than field limit"):
        find_clips(tmp_path / "cuts.csv")


def test_tar_without_clips_is_refused(tmp_path):
    for content in (b"", bytes(10240)):
        (tmp_path / "a.tar").write_bytes(content)
        with pytest.raises(DatasetError, match=r"a\.tar holds no clips"):
            find_clips(tmp_path / "a.tar")
    (tmp_path / "a.tar").write_bytes(io.BytesIO(b"x" * 600).getvalue())
    with pytest.raises(DatasetError, match=r"a\.tar is no shard of siammae's"):
        find_clips(tmp_path / "a.tar")
