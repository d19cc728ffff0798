import logging

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from siammae.errors import VideoReadError
from siammae.frames import read_frames
from siammae.pretraining import pairs
from siammae.pretraining.crops import collate
from siammae.pretraining.pairs import VideoPairs, draw_frames, find_videos
from tests.helpers import write_video
from tests.pretraining.runs import make_clips, run_config


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return make_clips(tmp_path_factory.mktemp("clips"))


def stream(folder, **fields):
    config = run_config(videos=folder, **fields)
    return VideoPairs(find_videos(folder), config)


def test_find_videos_in_a_folder_finds_all_subfolders_in_order(tmp_path):
    for name in ("b.mp4", "a/z.AVI", "a/deep/er/c.webm", "notes.txt", "frame.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.mp4").mkdir()
    assert find_videos(tmp_path) == [tmp_path / name for name in ("a/deep/er/c.webm", "a/z.AVI", "b.mp4")]
    assert find_videos(str(tmp_path / "b.mp4")) == [tmp_path / "b.mp4"]


def test_find_videos_in_a_list_keeps_its_order(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("in/b.mp4", "a b.bin"):
        (tmp_path / name).touch()
    (tmp_path / "list.txt").write_text("# training\nin/b.mp4\n\n  a b.bin  \n", encoding="utf-8")
    assert find_videos(tmp_path / "list.txt") == [tmp_path / "in/b.mp4", tmp_path / "a b.bin"]


@pytest.mark.parametrize("line", ["../out.mp4", "/etc/hostname", "in/../../out.mp4"])
def test_find_videos_in_a_list_that_leaves_its_folder_is_refused(tmp_path, line):
    (tmp_path / "out.mp4").touch()
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "list.txt").write_text(line)
    with pytest.raises(ValueError, match=rf"list\.txt lists '{line}', which leaves .*here"):
        find_videos(tmp_path / "here" / "list.txt")


def test_find_videos_where_there_are_none_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file or folder .*nowhere: pass a folder of videos"):
        find_videos(tmp_path / "nowhere")
    (tmp_path / "list.txt").write_text("missing.mp4")
    with pytest.raises(FileNotFoundError, match=r"lists 'missing\.mp4', but there is no file .*missing\.mp4"):
        find_videos(tmp_path / "list.txt")
    (tmp_path / "list.txt").write_text("# nothing\n")
    for source in (tmp_path, tmp_path / "list.txt"):
        with pytest.raises(ValueError, match=r"holds no video: known are \.mp4"):
            find_videos(source)


@pytest.mark.parametrize(
    ("count", "gap", "gaps"),
    [(100, (4, 7), {4, 5, 6, 7}), (6, (4, 48), {4, 5}), (3, (4, 48), {2}), (2, (1, 1), {1}), (9, (3, 3), {3})],
)
def test_draw_frames_stays_in_the_video_and_covers_every_gap(count, gap, gaps):
    rng = np.random.default_rng(0)
    drawn = [draw_frames(rng, count, gap) for _ in range(2000)]
    assert {future - past for past, future in drawn} == gaps
    assert {past for past, _ in drawn} == set(range(count - min(gaps)))
    assert max(future for _, future in drawn) == count - 1


def test_pairs_have_the_documented_shape_and_show_the_clip(clips):
    sample = stream(clips, samples_per_video=3, batch_size=3)[0].frames
    assert (sample.shape, sample.dtype) == ((3, 2, 3, 32, 32), torch.uint8)
    assert sample.float().std(dim=(2, 3, 4)).min() > 10


@pytest.fixture(scope="module")
def frozen_clip(tmp_path_factory):
    """All frames are equal."""
    frame = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    return write_video(tmp_path_factory.mktemp("frozen") / "clip.avi", [frame] * 6).parent


def test_pair_of_equal_frames_is_equal_since_crop_and_flip_are_shared(frozen_clip):
    samples = [stream(frozen_clip, flip=0.5)[position].frames for position in range(10)]
    assert all(torch.equal(sample[:, 0], sample[:, 1]) for sample in samples)
    assert len({sample[0, 0].numpy().tobytes() for sample in samples}) == 10


def test_still_pair_shows_one_frame_in_two_crops(frozen_clip):
    samples = [stream(frozen_clip, still_share=1.0)[position].frames for position in range(10)]
    assert not any(torch.equal(sample[0, 0], sample[0, 1]) for sample in samples)


def test_still_pair_may_take_its_crops_from_neighbouring_frames(clips, monkeypatch):
    read = []
    monkeypatch.setattr(
        VideoPairs, "_read", lambda self, video, past, future: read.append((past, future)) or (FRAME,) * 2
    )
    for position in range(60):
        stream(clips, still_share=1.0, still_gap=2, frame_gap=(4, 4))[position]
    assert {future - past for past, future in read} == {0, 1, 2}
    assert max(future for _, future in read) == 7


FRAME = np.zeros((40, 48, 3), dtype=np.uint8)


def test_flip_mirrors_both_frames(frozen_clip):
    whole = {"crop_scale": (1.0, 1.0), "crop_ratio": (1.2, 1.2)}
    plain, flipped = (stream(frozen_clip, flip=flip, **whole)[0].frames for flip in (0.0, 1.0))
    assert torch.equal(plain.flip(-1), flipped)


def test_short_side_shrinks_frames_that_are_larger(frozen_clip):
    assert torch.equal(stream(frozen_clip, short_side=40)[0].frames, stream(frozen_clip)[0].frames)
    assert not torch.equal(stream(frozen_clip, short_side=20)[0].frames, stream(frozen_clip)[0].frames)
    videos = stream(frozen_clip, short_side=20)
    frame = next(read_frames(videos.videos[0]))
    assert videos._shrink(frame).shape == (20, 24, 3)


def test_stream_visits_every_video_once_an_epoch_in_changing_order(clips, monkeypatch):
    videos, seen = stream(clips), []
    monkeypatch.setattr(VideoPairs, "_pairs", lambda self, video, rng: seen.append(video))
    for position in range(40):
        videos[position]
    epochs = [tuple(seen[start : start + 4]) for start in range(0, 40, 4)]
    assert all(sorted(epoch) == [0, 1, 2, 3] for epoch in epochs)
    assert len(set(epochs)) > 3


POSITIONS = list(range(8))


@pytest.mark.parametrize("fields", [{}, {"cache_mb": 64}, {"cache_mb": 1, "short_side": 36}], ids=str)
def test_position_holds_the_same_whatever_was_read_before(clips, fields):
    wanted = [stream(clips, **{**fields, "cache_mb": 0})[position].frames for position in POSITIONS]
    backwards = stream(clips, **fields)
    for position in reversed(POSITIONS):
        assert torch.equal(backwards[position].frames, wanted[position])
    assert not torch.equal(wanted[0], wanted[1])
    assert not torch.equal(stream(clips, seed=1)[0].frames, wanted[0])


def test_workers_read_what_the_process_itself_reads(clips):
    batches = [
        list(DataLoader(stream(clips), sampler=POSITIONS, batch_size=2, num_workers=n, collate_fn=collate))
        for n in (0, 2)
    ]
    assert len(batches[0]) == 4
    assert all(torch.equal(one.frames, other.frames) for one, other in zip(*batches, strict=True))


def test_cache_is_bounded_and_keeps_what_was_used_last(clips):
    videos = stream(clips, cache_mb=1)
    clip = 8 * 40 * 48 * 3
    videos._cached_bytes = 2**20 - 2 * clip  # as if other clips left room for two
    used = []
    for position in POSITIONS:
        videos[position]
        used.append(list(videos._cache)[-1])
        assert len(videos._cache) <= 2
        assert list(videos._cache) == list(dict.fromkeys(reversed(used)))[:2][::-1]


@pytest.mark.parametrize("cache_mb", [0, 64])
def test_container_that_counts_too_many_frames_yields_the_same_with_and_without_history(clips, monkeypatch, cache_mb):
    monkeypatch.setattr(pairs, "count_frames", lambda _: 40)  # the clips have 8
    fields = {"frame_gap": (1, 6), "samples_per_video": 1}
    wanted = [stream(clips, **fields)[position].frames for position in range(20)]
    videos = stream(clips, cache_mb=cache_mb, **fields)
    for position in range(19, -1, -1):
        assert torch.equal(videos[position].frames, wanted[position])
    assert videos.broken == []


@pytest.mark.parametrize("cache_mb", [0, 64])
def test_video_that_breaks_off_yields_the_same_with_and_without_history(clips, monkeypatch, cache_mb):
    def broken_at_4(video, *, start=0, stop=None, step=1):
        for index, frame in enumerate(read_frames(video)):
            if index == 4 and video.name == "clip2.avi":
                raise VideoReadError("breaks off at frame 4", frame_index=4)
            if index >= start and (index - start) % step == 0:
                yield frame
            if stop is not None and index + 1 >= stop:
                return

    monkeypatch.setattr(pairs, "read_frames", broken_at_4)
    fields = {"frame_gap": (1, 2), "samples_per_video": 1}
    whole = [stream(clips, **fields)[position].frames for position in range(40)]
    videos = stream(clips, cache_mb=cache_mb, **fields)
    for position in range(39, -1, -1):
        assert torch.equal(videos[position].frames, whole[position])
    assert [video.name for video in videos.broken] == ["clip2.avi"]


def test_broken_videos_are_replaced_and_reported_once(tmp_path, caplog):
    folder = make_clips(tmp_path, count=2)
    (tmp_path / "noise.mp4").write_bytes(b"no video at all")
    write_video(tmp_path / "single.avi", next(iter(read_frames(folder / "clip0.avi")))[None])
    videos = stream(folder)
    with caplog.at_level(logging.WARNING):
        samples = [videos[position].frames for position in range(12)]
    assert all(sample.shape == (2, 2, 3, 32, 32) for sample in samples)
    assert sorted(video.name for video in videos.broken) == ["noise.mp4", "single.avi"]
    reports = sorted(record.getMessage() for record in caplog.records)
    assert len(reports) == 2
    assert "noise.mp4 cannot be read as a video" in reports[0]
    assert "single.avi: a pair needs 2 frames, the video has 1" in reports[1]


def test_stream_of_broken_videos_only_is_refused(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(b"no video at all")
    with pytest.raises(ValueError, match="none of the 2 videos can be read: the log names them and the reasons"):
        stream(tmp_path)[0]
