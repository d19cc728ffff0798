import io
import json
import shutil
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from siammae.cli import main
from siammae.clips import open_clip
from siammae.clips.listing import find_clips
from siammae.clips.open_clip import OpenClip
from siammae.errors import DatasetError, VideoReadError
from siammae.frames import VideoEndError
from siammae.outputs import hold_folder
from siammae.pretraining.data import sharding
from siammae.pretraining.data.crops import collate
from siammae.pretraining.data.pairs import VideoPairs
from siammae.pretraining.data.sharding import ShardSettings, write_shards
from tests.helpers import write_video
from tests.pretraining.runs import make_clips, run_config
from tests.videos import encode, numbered


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Six videos in two folders, 80 frames in all, one of them upright, one with B-frames."""
    folder = make_clips(tmp_path_factory.mktemp("clips"), count=4)
    (folder / "in").mkdir()
    encode(folder / "in" / "upright.mp4", numbered(20, size=(96, 64)))
    encode(folder / "in" / "b.frames.mp4", numbered(28), options={"bf": "2"})
    return folder


SMALL = 0.02  # MiB: some clips of each fixture fill a tar


@pytest.fixture(scope="module")
def lossless(clips, tmp_path_factory):
    folder = tmp_path_factory.mktemp("png")
    report = write_shards(clips, folder, ShardSettings(short_side=36, format="png", shard_mb=SMALL), workers=2)
    assert (report.clips, report.skipped) == (6, ())
    assert report.shards > 1
    return folder


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def batches(source, workers=0, **fields):
    config = run_config(videos=source, short_side=36, **fields)
    loader = DataLoader(
        VideoPairs(find_clips(source), config),
        sampler=range(18),
        batch_size=3,
        num_workers=workers,
        collate_fn=collate,
    )
    return list(loader)


@pytest.mark.parametrize(
    "fields",
    [{}, {"workers": 2}, {"cache_mb": 64}, {"still_share": 0.5, "still_gap": 2, "frame_gap": (4, 48)}],
    ids=str,
)
def test_lossless_shards_give_bit_identical_batches_to_the_videos(clips, lossless, fields):
    assert [clip.name for clip in find_clips(lossless)] == [clip.name for clip in find_clips(clips)]
    loose = batches(clips, **{name: value for name, value in fields.items() if name not in ("workers", "cache_mb")})
    for one, other in zip(batches(lossless, **fields), loose, strict=True):
        assert torch.equal(one.frames, other.frames)
        assert torch.equal(one.places.nan_to_num(-9), other.places.nan_to_num(-9))


def test_jpeg_shards_give_the_same_pairs_up_to_the_compression(clips, tmp_path):
    write_shards(clips, tmp_path, ShardSettings(short_side=36, quality=95), workers=1)
    for one, other in zip(batches(tmp_path), batches(clips), strict=True):
        difference = (one.frames.float() - other.frames.float()).abs().mean()
        assert 0 < difference < 6
        assert difference < 0.2 * (one.frames.float() - other.frames.float().roll(1, 0)).abs().mean()


def test_shards_of_a_video_whose_header_counts_too_many_give_the_same_pairs(clips, tmp_path, monkeypatch):
    real = open_clip.open_reader

    def lying(path, backend):
        reader = real(path, backend)
        reader.frame_count += 9
        return reader

    monkeypatch.setattr(open_clip, "open_reader", lying)
    write_shards(clips, tmp_path, ShardSettings(short_side=36, format="png"))
    for one, other in zip(batches(tmp_path), batches(clips), strict=True):
        assert torch.equal(one.frames, other.frames)


def test_shards_with_a_step_keep_original_numbers(clips, lossless, tmp_path):
    write_shards(clips, tmp_path, ShardSettings(short_side=36, format="png", step=3))
    for some, every in zip(find_clips(tmp_path), find_clips(lossless), strict=True):
        with OpenClip(some) as one, OpenClip(every) as other:
            assert (one.step, one.count, one.random_access) == (3, other.count, True)
            for (number, frame), (same, its) in zip(one.frames([0, 3, 6]), other.frames([0, 3, 6]), strict=True):
                assert number == same
                assert np.array_equal(frame, its)
            with pytest.raises(ValueError, match=r"frame 4 is not in .*\.tar: it keeps every 3th"):
                list(one.frames([4]))
            with pytest.raises(VideoEndError, match=f"ends after {one.count} frames"):
                list(one.frames([0, 300]))
    config = run_config(videos=tmp_path, frame_gap=(2, 7), cache_mb=1)
    videos = VideoPairs(find_clips(tmp_path), config)
    drawn = [videos._draw(np.random.default_rng(seed), 20, 3, 0.0) for seed in range(50)]
    assert {pair.future - pair.past for pairs in drawn for pair in pairs} == {3, 6}
    assert [videos[position].skipped for position in range(12)] == [()] * 12


def test_shards_of_images_and_of_cuts_are_clips_as_well(clips, tmp_path):
    (clips / "cuts.csv").write_text("path,start,stop\nin/b.frames.mp4,0.2,0.6\nclip0.avi,,\n")
    write_shards(clips / "cuts.csv", tmp_path / "cuts", ShardSettings(short_side=None, format="png"))
    for cut, loose in zip(find_clips(tmp_path / "cuts"), find_clips(clips / "cuts.csv"), strict=True):
        with OpenClip(cut) as one, OpenClip(loose) as other:
            assert (cut.name, one.count) == (loose.name, other.count)
            assert all(
                np.array_equal(a, b) for (_, a), (_, b) in zip(one.frames([0, 7]), other.frames([0, 7]), strict=True)
            )
    (clips / "cuts.csv").unlink()
    write_shards(frame_folder(tmp_path / "photos"), tmp_path / "stills")
    videos = VideoPairs(find_clips(tmp_path / "stills"), run_config(still_share=1.0))
    assert videos[0].frames.shape == (2, 2, 3, 32, 32)
    with pytest.raises(ValueError, match=r"holds only single images \(0\.png\) but still_share is 0\.5"):
        VideoPairs(find_clips(tmp_path / "stills"), run_config(still_share=0.5))


def test_lossless_shards_of_videos_and_images_give_bit_identical_batches(tmp_path):
    folder = make_clips(tmp_path / "both")
    names = [path.name for path in [*frame_folder(folder / "photos").iterdir(), *folder.glob("*.avi")]]
    (folder / "list.txt").write_text("".join(f"photos/{n}\n" if n.endswith("png") else f"{n}\n" for n in sorted(names)))
    write_shards(folder / "list.txt", tmp_path / "shards", ShardSettings(short_side=36, format="png"))
    for one, other in zip(batches(tmp_path / "shards"), batches(folder / "list.txt"), strict=True):
        assert one.skipped == ()
        assert torch.equal(one.frames, other.frames)
        assert torch.equal(one.places.isnan(), other.places.isnan())


def frame_folder(folder):
    from siammae.frames import write_image

    folder.mkdir()
    for index, frame in enumerate(numbered(3)):
        write_image(folder / f"{index}.png", frame)
    return folder


def test_one_tar_is_a_source_by_itself(lossless):
    tars = sorted(lossless.glob("*.tar"))
    assert [clip for tar in tars for clip in find_clips(tar)] == find_clips(lossless)


def test_shards_are_tars_of_named_samples(lossless):
    names = [clip.name for clip in find_clips(lossless)]
    tar = sorted(lossless.glob("*.tar"))[0]
    with tarfile.open(tar) as whole:
        members = whole.getnames()
        first = json.load(whole.extractfile(members[0]))
    assert members[:3] == ["00000000.json", "00000000.000000.png", "00000000.000001.png"]
    assert (first["name"], first["fps"], first["frames"], first["size"]) == (names[0], 25, 8, [36, 43])


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")  # its files
def test_shards_are_read_by_webdataset(lossless):
    webdataset = pytest.importorskip("webdataset", reason="the extra webdataset")
    names = [clip.name for clip in find_clips(lossless)]
    samples = list(
        webdataset.WebDataset([str(t) for t in sorted(lossless.glob("*.tar"))], shardshuffle=False).decode("rgb8")
    )
    assert [sample["json"]["name"] for sample in samples] == names
    assert [sample["__key__"] for sample in samples] == [f"{index:08d}" for index in range(6)]
    for sample, clip in zip(samples, find_clips(lossless), strict=True):
        with OpenClip(clip) as opened:
            frame = dict(opened.frames([5]))[5]
        assert np.array_equal(sample["000005.png"], frame)


def test_sharding_killed_after_its_only_tar_goes_on(clips, tmp_path, monkeypatch):
    settings = ShardSettings(short_side=36)
    write_shards(clips, tmp_path / "whole", settings)
    write = sharding._Writer._write

    def killed(self, name, **options):
        if name == "index.json":
            raise KeyboardInterrupt
        write(self, name, **options)

    with monkeypatch.context() as patch:
        patch.setattr(sharding._Writer, "_write", killed)
        with pytest.raises(KeyboardInterrupt):
            write_shards(clips, tmp_path / "parts", settings)
    assert (tmp_path / "parts" / "clips-000000.tar").exists()
    write_shards(clips, tmp_path / "parts", settings)
    assert files(tmp_path / "parts") == files(tmp_path / "whole")


def test_sharding_over_other_shards_deletes_them_when_asked_for_and_nothing_else(clips, tmp_path):
    write_shards(clips, tmp_path / "new", ShardSettings(short_side=36))
    write_shards(clips, tmp_path / "old", ShardSettings(short_side=36, format="png", shard_mb=SMALL))
    assert len(files(tmp_path / "old")) > len(files(tmp_path / "new"))
    with pytest.raises(ValueError, match=r"holds shards of other settings .* already: choose another output, or allow"):
        write_shards(clips, tmp_path / "old", ShardSettings(short_side=36))
    write_shards(clips, tmp_path / "old", ShardSettings(short_side=36), overwrite=True)
    assert files(tmp_path / "old") == files(tmp_path / "new")
    (tmp_path / "old" / "mine.tar").write_bytes(b"mine")
    (tmp_path / "old" / "index.json").write_text('{"layout": "other", "shards": [{"file": "clips-000000.tar"}]}')
    with pytest.raises(ValueError, match=r"index\.json is not of siammae's shards"):
        write_shards(clips, tmp_path / "old", overwrite=True)
    (tmp_path / "old" / "index.json").unlink()
    with pytest.raises(ValueError, match=r"holds clips-000000\.tar, which is no shard of siammae's"):
        write_shards(clips, tmp_path / "old", overwrite=True)
    assert {path.name for path in (tmp_path / "old").iterdir()} == {"clips-000000.tar", "mine.tar"}


def test_interrupted_sharding_goes_on_and_ends_with_the_same_bytes(clips, tmp_path, monkeypatch):
    settings = ShardSettings(short_side=36, shard_mb=SMALL)
    shutil.copytree(clips, tmp_path / "clips")
    (tmp_path / "clips" / "broken.mp4").write_bytes(b"no video")
    write_shards(tmp_path / "clips", tmp_path / "whole", settings)
    encode_clip = sharding._encode
    calls = []

    def interrupted(clip, settings):
        calls.append(clip.name)
        if len(calls) in (5, 7):
            raise KeyboardInterrupt
        return encode_clip(clip, settings)

    monkeypatch.setattr(sharding, "_encode", interrupted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            write_shards(tmp_path / "clips", tmp_path / "parts", settings, workers=1)
        assert not (tmp_path / "parts" / "index.json").exists()
        assert not list((tmp_path / "parts").glob("*.part"))
        with pytest.raises(DatasetError, match=r"the shards in .*parts are unfinished: run siammae shard again"):
            find_clips(tmp_path / "parts")
    report = write_shards(tmp_path / "clips", tmp_path / "parts", settings, workers=1)
    assert files(tmp_path / "parts") == files(tmp_path / "whole")
    assert (report.clips, [skip.name for skip in report.skipped]) == (6, ["broken.mp4"])
    count = len(calls)
    assert write_shards(tmp_path / "clips", tmp_path / "parts", settings) == report  # nothing is done twice
    assert len(calls) == count


def test_sharding_on_a_full_disk_leaves_no_part_and_goes_on(clips, tmp_path, full_disk):
    settings = ShardSettings(short_side=36, shard_mb=SMALL)
    write_shards(clips, tmp_path / "whole", settings)
    with full_disk(15_000), pytest.raises(OSError, match=r"File too large: '.*clips-000000\.tar'"):
        write_shards(clips, tmp_path / "parts", settings)
    assert files(tmp_path / "parts") == {}
    write_shards(clips, tmp_path / "parts", settings)
    assert files(tmp_path / "parts") == files(tmp_path / "whole")


def test_shard_command_holds_its_folder_and_sweeps_what_a_killed_one_left(clips, tmp_path, capsys):
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    left = tmp_path / f".clips-000000.tar.{int(gone.stdout)}-0-ab_1.part"
    left.mkdir()
    argv = ["shard", str(clips), "-o", str(tmp_path), "--short-side", "32", "--workers", "1", "--quiet"]
    with hold_folder(tmp_path):
        assert main(argv) == 1
        assert "another run is writing" in capsys.readouterr().err
    assert main(argv) == 0
    assert sorted(files(tmp_path)) == ["clips-000000.tar", "index.json"]


def test_sharding_into_shards_of_something_else_is_refused(clips, lossless, tmp_path):
    with pytest.raises(
        ValueError, match=r"holds shards of other settings \(.*index\.json\) already: choose another output, or allow"
    ):
        write_shards(clips, lossless, ShardSettings(quality=3))
    (tmp_path / "other").mkdir()
    write_video(tmp_path / "other" / "a.avi", numbered(4))
    with pytest.raises(ValueError, match=r"holds shards of other names and sources"):
        write_shards(tmp_path / "other", lossless, ShardSettings(short_side=36, format="png", shard_mb=SMALL))
    with pytest.raises(ValueError, match=r"holds shards already: pass videos or images"):
        write_shards(lossless, tmp_path / "again")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x.tar").touch()
    with pytest.raises(ValueError, match=r"holds x\.tar, which is no shard of siammae's"):
        write_shards(clips, tmp_path / "full")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "progress.json").write_text("{")
    with pytest.raises(
        DatasetError, match=r"progress\.json is damaged .*if siammae shard made it, delete it and shard again"
    ):
        write_shards(clips, tmp_path / "damaged")


def test_sharding_of_broken_files_only_is_refused(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(DatasetError, match=r"none of the 1 clips can be read:\n  a\.mp4: .*cannot be read as a video"):
        write_shards(tmp_path, tmp_path / "shards")


def test_sharding_skips_a_clip_whose_frames_change_size_or_that_has_none(clips, tmp_path, monkeypatch):
    frames = {"clip0.avi": [np.zeros((9, 9, 3), np.uint8), np.zeros((9, 8, 3), np.uint8)], "clip1.avi": []}
    real = OpenClip.every_frame
    monkeypatch.setattr(
        OpenClip,
        "every_frame",
        lambda self: enumerate(frames[self.clip.name]) if self.clip.name in frames else real(self),
    )
    report = write_shards(clips, tmp_path / "shards")
    assert report.skipped == (
        ("clip0.avi", "the frame size changes: [(9, 8), (9, 9)]."),
        ("clip1.avi", "it holds no frames."),
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"short_side": 0}, "short_side is 0: it must be at least 1, or None"),
        ({"quality": 96}, "quality is 96: it must be 1 to 95"),
        ({"format": "gif"}, "format is 'gif': it must be 'jpg' or 'png'"),
        ({"step": 0}, "step is 0: it must be at least 1"),
        ({"shard_mb": 0}, "shard_mb is 0: it must be above 0"),
    ],
)
def test_shard_settings_out_of_range_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        ShardSettings(**fields)


@pytest.fixture
def copied(lossless, tmp_path):
    return shutil.copytree(lossless, tmp_path / "copied")


def test_folder_of_tars_without_an_index_is_refused(copied):
    (copied / "index.json").unlink()
    with pytest.raises(DatasetError, match=r"holds clips-000000\.tar but no index\.json of siammae's shards"):
        find_clips(copied)
    (copied / "index.json").write_text("not JSON")
    with pytest.raises(DatasetError, match=r"but no index\.json of siammae's shards"):
        find_clips(copied)


def test_index_that_does_not_fit_the_folder_is_refused(copied):
    index = json.loads((copied / "index.json").read_text())
    (copied / "clips-000001.tar").unlink()
    with pytest.raises(DatasetError, match=r"index\.json names clips-000001\.tar, but it is not there"):
        find_clips(copied)
    del index["shards"][0]["file"]
    (copied / "index.json").write_text(json.dumps(index))
    with pytest.raises(DatasetError, match=r"index\.json is damaged \(KeyError\('file'\)\): delete it and shard again"):
        find_clips(copied)


def test_tar_of_another_kind_is_refused(tmp_path):
    (tmp_path / "text.tar").write_text("hello" * 1000)
    with pytest.raises(DatasetError, match=r"text\.tar is no shard of siammae's: .*Make shards with siammae shard"):
        find_clips(tmp_path / "text.tar")
    for name, data, message in (("a.jpg", b"x", "holds no clips"), ("a.json", b"{}", "is no shard of siammae's")):
        with tarfile.open(tmp_path / "other.tar", "w") as tar:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        with pytest.raises(DatasetError, match=message):
            find_clips(tmp_path / "other.tar")
    with tarfile.open(tmp_path / "other.tar", "w") as tar:
        data = json.dumps({"layout": "siammae shards 9", "bytes": []}).encode()
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
    with pytest.raises(DatasetError, match="description of another layout"):
        find_clips(tmp_path / "other.tar")


def test_shard_that_changed_is_a_broken_clip(copied):
    clips = find_clips(copied)
    with (
        OpenClip(clips[1].__class__("x", clips[1].path, kind="shard", offset=clips[1].offset)) as clip,
        pytest.raises(VideoReadError, match=r"\.tar holds '.*' where 'x' should be\. Shard again"),
    ):
        clip.count  # noqa: B018
    data = bytearray(clips[0].path.read_bytes())
    data[1700:2600] = bytes(900)  # in the first frame
    clips[0].path.write_bytes(data)
    with (
        OpenClip(clips[0]) as clip,
        pytest.raises(VideoReadError, match=rf"frame 0 of {clips[0].name} cannot be read as an image"),
    ):
        list(clip.frames([0]))
    data[:300] = bytes(300)
    clips[0].path.write_bytes(data)
    videos = VideoPairs(clips, run_config(max_skipped=0.5))
    for position in range(6):
        videos[position]
    assert "holds no clip of siammae's at byte 0" in videos.skipped[clips[0].name]


def test_shard_command_writes_shards_and_names_what_it_skipped(clips, tmp_path, capsys):
    shutil.copytree(clips, tmp_path / "clips")
    (tmp_path / "clips" / "broken.mp4").write_bytes(b"no video")
    argv = ["shard", str(tmp_path / "clips"), "-o", str(tmp_path / "shards"), "--short-side", "32", "--workers", "1"]
    assert main(argv) == 0
    out, err = capsys.readouterr()
    assert "6 clips in 1 shards in" in out
    assert "skipped 1 that cannot be read:\n  broken.mp4: " in out
    assert "shard: 100%" in err
    assert len(find_clips(tmp_path / "shards")) == 6
    with OpenClip(find_clips(tmp_path / "shards")[0]) as clip:
        assert next(clip.frames([0]))[1].shape == (32, 38, 3)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nowhere"], "no file or folder nowhere"),
        (["VIDEOS", "--workers", "0"], "--workers is 0: it must be at least 1"),
        (["VIDEOS", "--quality", "200"], "quality is 200: it must be 1 to 95"),
        (["VIDEOS", "--short-side", "-3"], "short_side is -3"),
    ],
)
def test_shard_command_with_wrong_input_says_so_in_one_line(clips, tmp_path, capsys, argv, message):
    argv = [str(clips) if word == "VIDEOS" else word for word in argv]
    assert main(["shard", *argv, "-o", str(tmp_path / "shards"), "--quiet"]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"siammae shard: error: {message}")
    assert err.count("\n") == 1


def test_shard_command_when_interrupted_says_that_it_goes_on(clips, tmp_path, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(sharding, "write_shards", interrupted)
    assert main(["shard", str(clips), "-o", str(tmp_path / "shards")]) == 130
    assert "the same command goes on after the last whole tar" in capsys.readouterr().err
