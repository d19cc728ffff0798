import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from siammae.clips import open_clip
from siammae.clips.listing import find_clips
from siammae.errors import DatasetError, VideoReadError
from siammae.frames import open_reader, read_frames, write_image
from siammae.pretraining.data.crops import collate
from siammae.pretraining.data.pairs import VideoPairs, draw_frames
from tests.helpers import write_video
from tests.pretraining.runs import make_clips, run_config


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return make_clips(tmp_path_factory.mktemp("clips"))


def stream(folder, **fields):
    config = run_config(videos=folder, **fields)
    return VideoPairs(find_clips(folder), config)


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


@pytest.mark.parametrize(
    ("count", "gap", "step", "gaps"),
    [
        (41, (4, 9), 4, {4, 8}),
        (40, (5, 13), 4, {8, 12}),
        (40, (5, 7), 4, {8}),
        (6, (4, 48), 4, {4}),
        (40, (0, 3), 4, {0}),
    ],
)
def test_draw_frames_with_a_step_draws_only_frames_that_are_kept(count, gap, step, gaps):
    rng = np.random.default_rng(0)
    drawn = [draw_frames(rng, count, gap, step) for _ in range(2000)]
    assert {future - past for past, future in drawn} == gaps
    assert {number for pair in drawn for number in pair} == set(range(0, count, step))


def test_pairs_have_the_documented_shape_and_show_the_clip(clips):
    sample = stream(clips, samples_per_video=3, batch_size=3)[0]
    assert (sample.frames.shape, sample.frames.dtype) == ((3, 2, 3, 32, 32), torch.uint8)
    assert sample.frames.float().std(dim=(2, 3, 4)).min() > 10
    assert sample.skipped == ()


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
    drawn = []
    draw = VideoPairs._draw
    monkeypatch.setattr(VideoPairs, "_draw", lambda *args: drawn.extend(draws := draw(*args)) or draws)
    videos = stream(clips, still_share=1.0, still_gap=2, frame_gap=(4, 4))
    for position in range(60):
        videos[position]
    assert {pair.future - pair.past for pair in drawn} == {0, 1, 2}
    assert max(pair.future for pair in drawn) == 7


def test_flip_mirrors_both_frames(frozen_clip):
    whole = {"crop_scale": (1.0, 1.0), "crop_ratio": (1.2, 1.2)}
    plain, flipped = (stream(frozen_clip, flip=flip, **whole)[0].frames for flip in (0.0, 1.0))
    assert torch.equal(plain.flip(-1), flipped)


def test_short_side_shrinks_frames_that_are_larger(frozen_clip):
    assert torch.equal(stream(frozen_clip, short_side=40)[0].frames, stream(frozen_clip)[0].frames)
    assert not torch.equal(stream(frozen_clip, short_side=20)[0].frames, stream(frozen_clip)[0].frames)


def test_stream_visits_every_clip_once_an_epoch_in_changing_order(clips, monkeypatch):
    videos, seen = stream(clips), []
    real = VideoPairs._pairs
    monkeypatch.setattr(VideoPairs, "_pairs", lambda self, clip, rng: seen.append(clip) or real(self, clip, rng))
    for position in range(40):
        videos[position]
    epochs = [tuple(seen[start : start + 4]) for start in range(0, 40, 4)]
    assert all(sorted(epoch) == [0, 1, 2, 3] for epoch in epochs)
    assert len(set(epochs)) > 3


def test_all_frames_of_a_sample_are_read_in_one_pass(clips, monkeypatch):
    opened, passes = [], []

    def watched(path, backend):
        reader = open_reader(path, backend)
        frames = reader.frames
        reader.frames = lambda numbers: passes.append(list(numbers)) or frames(numbers)
        opened.append(path)
        return reader

    monkeypatch.setattr(open_clip, "open_reader", watched)
    stream(clips, samples_per_video=4, batch_size=4)[0]
    assert len(opened) == len(passes) == 1
    assert passes[0] == sorted(set(passes[0]))
    assert len(passes[0]) > 3


POSITIONS = list(range(8))
READERS = ["opencv", "pyav"]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("fields", [{}, {"cache_mb": 64}, {"cache_mb": 1, "short_side": 36}], ids=str)
def test_position_holds_the_same_whatever_was_read_before(clips, fields, reader):
    fields = {**fields, "reader": reader}
    wanted = [stream(clips, **{**fields, "cache_mb": 0})[position].frames for position in POSITIONS]
    backwards = stream(clips, **fields)
    for position in reversed(POSITIONS):
        assert torch.equal(backwards[position].frames, wanted[position])
    assert not torch.equal(wanted[0], wanted[1])
    assert not torch.equal(stream(clips, seed=1)[0].frames, wanted[0])


def test_readers_draw_the_same_pairs(clips):
    one, other = (torch.stack([stream(clips, reader=r)[p].frames for p in POSITIONS]).float() for r in READERS)
    assert (one - other).abs().mean() < 2


@pytest.mark.parametrize("cache_mb", [0, 64])
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_read_what_the_process_itself_reads(clips, workers, cache_mb):
    batches = [
        list(DataLoader(stream(clips, cache_mb=mb), sampler=POSITIONS, batch_size=2, num_workers=n, collate_fn=collate))
        for n, mb in ((0, 0), (workers, cache_mb))
    ]
    assert len(batches[0]) == 4
    assert all(torch.equal(one.frames, other.frames) for one, other in zip(*batches, strict=True))


def test_cache_is_bounded_and_keeps_what_was_used_last(clips):
    videos = stream(clips)
    videos._cache._budget = 2 * 8 * 40 * 48 * 3 + 5  # room for two clips
    used = []
    for position in POSITIONS:
        videos[position]
        used.append(videos._cache.keys[-1])
        assert videos._cache.keys == list(dict.fromkeys(reversed(used)))[:2][::-1]
    assert set(used) == {0, 1, 2, 3}


def test_cache_never_holds_a_clip_that_is_larger_than_itself(clips):
    wanted = [stream(clips)[position].frames for position in POSITIONS]
    videos = stream(clips)
    videos._cache._budget = 3 * 40 * 48 * 3
    assert all(torch.equal(videos[position].frames, wanted[position]) for position in POSITIONS)
    assert (videos._cache.keys, videos._cache._bytes) == ([], 0)


def lying_reader(count):
    def open_lying(path, backend):
        reader = open_reader(path, backend)
        reader.frame_count = count
        return reader

    return open_lying


@pytest.mark.parametrize("cache_mb", [0, 64])
@pytest.mark.parametrize("declared", [40, 0])
def test_container_that_miscounts_yields_the_same_with_and_without_history(clips, monkeypatch, cache_mb, declared):
    monkeypatch.setattr(open_clip, "open_reader", lying_reader(declared))  # the clips have 8
    fields = {"frame_gap": (1, 6), "samples_per_video": 1}
    wanted = [stream(clips, **fields)[position].frames for position in range(20)]
    videos = stream(clips, cache_mb=cache_mb, **fields)
    for position in range(19, -1, -1):
        assert torch.equal(videos[position].frames, wanted[position])
    assert videos.skipped == {}


@pytest.mark.parametrize("cache_mb", [0, 64])
def test_video_that_breaks_off_yields_the_same_with_and_without_history(clips, monkeypatch, cache_mb):
    def broken_at_4(path, backend):
        reader = open_reader(path, backend)
        frames = reader.frames

        def until_4(numbers):
            for number, frame in frames(numbers if isinstance(numbers, list) else range(8)):
                if number >= 4:
                    raise VideoReadError("breaks off at frame 4", frame_index=4)
                yield number, frame

        if path.name == "clip2.avi":
            reader.frames = until_4
        return reader

    monkeypatch.setattr(open_clip, "open_reader", broken_at_4)
    fields = {"frame_gap": (1, 2), "samples_per_video": 1, "max_skipped": 0.5}
    whole = [stream(clips, **fields)[position] for position in range(40)]
    videos = stream(clips, cache_mb=cache_mb, **fields)
    for position in range(39, -1, -1):
        sample = videos[position]
        assert torch.equal(sample.frames, whole[position].frames)
        assert sample.skipped == whole[position].skipped
    assert videos.skipped == {"clip2.avi": "breaks off at frame 4"}
    assert 0 < sum(bool(sample.skipped) for sample in whole) < 10  # its first frames are good


def test_broken_clips_are_replaced_by_the_next_with_a_draw_of_its_own(tmp_path):
    folder = make_clips(tmp_path, count=2)
    (tmp_path / "noise.mp4").write_bytes(b"no video at all")
    write_video(tmp_path / "single.avi", next(iter(read_frames(folder / "clip0.avi")))[None])
    videos = stream(folder, max_skipped=0.5)
    samples = [videos[position] for position in range(12)]
    assert all(sample.frames.shape == (2, 2, 3, 32, 32) for sample in samples)
    assert len({sample.frames.numpy().tobytes() for sample in samples}) == 12
    assert sorted(videos.skipped) == ["noise.mp4", "single.avi"]
    assert "noise.mp4 cannot be read as a video" in videos.skipped["noise.mp4"]
    assert videos.skipped["single.avi"] == "a pair needs 2 frames, the clip has 1."
    for epoch in range(3):
        of_epoch = collate(samples[4 * epoch : 4 * epoch + 4]).skipped
        assert {skip.name for skip in of_epoch} == {"noise.mp4", "single.avi"}


def test_clip_of_one_frame_serves_still_pairs(tmp_path):
    write_video(tmp_path / "single.avi", np.zeros((1, 40, 48, 3), np.uint8))
    assert stream(tmp_path, still_share=1.0, still_gap=3)[0].frames.shape == (2, 2, 3, 32, 32)


MIXED = {"still_share": 0.5, "still_gap": 2, "still_flow": True, "color_jitter": 0.2, "still_rotation": 9.0}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """The four videos, and three photographs behind them in the list."""
    folder = make_clips(tmp_path_factory.mktemp("mixed"))
    for index in range(3):
        write_image(folder / f"{index}.png", np.random.default_rng(index).integers(0, 256, (44, 50, 3), dtype=np.uint8))
    names = [*(f"clip{index}.avi" for index in range(4)), *(f"{index}.png" for index in range(3))]
    (folder / "list.txt").write_text("\n".join(names))
    return folder / "list.txt"


def by_clip(videos, epochs=6):
    """The samples of some epochs by the number of the epoch and the name of the clip."""
    samples = {}
    for position in range(epochs * len(videos.clips)):
        sample = videos[position]
        epoch, place = divmod(position, len(videos.clips))
        samples[epoch, videos.clips[videos._order[1][place]].name] = sample
    assert len(samples) == epochs * len(videos.clips)
    assert not videos.skipped
    return samples


@pytest.mark.parametrize("fields", [{}, {"still_share": 0.0}, {"cache_mb": 64}], ids=str)
def test_images_beside_videos_give_still_pairs_and_change_nothing_of_the_videos(clips, mixed, fields):
    fields = {**MIXED, **fields}
    both, videos = by_clip(stream(mixed, **fields)), by_clip(stream(clips, **fields))
    for key, sample in videos.items():
        assert torch.equal(both[key].frames, sample.frames)
        assert torch.equal(both[key].places.nan_to_num(-9), sample.places.nan_to_num(-9))
    images = [sample for (_, name), sample in both.items() if name.endswith(".png")]
    assert len(images) == 18
    for sample in images:
        assert sample.places.isfinite().all()  # it is known where all lies
        assert not torch.equal(sample.frames[:, 0], sample.frames[:, 1])
    if not fields["still_share"]:
        assert all(sample.places.isnan().all() for sample in videos.values())


def test_image_gives_the_same_pairs_whatever_the_still_share(mixed):
    one, other = (by_clip(stream(mixed, **{**MIXED, "still_share": share})) for share in (0.0, 1.0))
    assert all(torch.equal(one[key].frames, other[key].frames) for key in one if key[1].endswith(".png"))


def test_flow_is_never_looked_for_in_an_image(mixed, monkeypatch):
    def forbidden(past, future):
        raise AssertionError("nothing moves in an image")

    monkeypatch.setattr("siammae.pretraining.data.crops.find_flow", forbidden)
    by_clip(stream(mixed, **{**MIXED, "still_share": 0.0}))
    with pytest.raises(AssertionError, match="nothing moves"):
        by_clip(stream(mixed, **{**MIXED, "still_share": 1.0}))  # videos have flow


def test_stream_of_broken_clips_only_is_refused(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(b"no video at all")
    with pytest.raises(
        DatasetError, match=r"(?s)1 of 2 clips cannot be read, more than .*max_skipped=0 allows.*\.mp4: "
    ):
        stream(tmp_path, max_skipped=0.0)[0]
    with pytest.raises(DatasetError, match=r"2 of 2 clips cannot be read"):
        stream(tmp_path, max_skipped=0.9)[0]


def test_stream_stops_when_too_many_clips_proved_broken_over_time(clips, tmp_path):
    folder = make_clips(tmp_path, count=6)
    for name in ("a.mp4", "clip3b.mp4"):
        (tmp_path / name).write_bytes(b"no video at all")
    videos = stream(folder, max_skipped=0.125)  # one of eight may be
    skipped = []
    for position in range(17):
        skipped += [skip.name for skip in videos[position].skipped]
        if len(skipped) == 2:
            break
    assert sorted(skipped) == ["a.mp4", "clip3b.mp4"]  # told before the refusal
    with pytest.raises(DatasetError, match="2 of 8 clips cannot be read"):
        videos[position + 1]


def test_frames_that_change_size_are_refused(clips, monkeypatch):
    read = VideoPairs._read

    def resized(self, number, clip, draws):
        frames = read(self, number, clip, draws)
        frames[max(frames)] = frames[max(frames)][:-1]
        return frames

    monkeypatch.setattr(VideoPairs, "_read", resized)
    with pytest.raises(DatasetError, match=r"the frame size changes: \(40, 48\) at frame \d, \(39, 48\) at frame \d"):
        stream(clips)[0]


def test_missing_extra_stops_the_run_and_breaks_no_clip(clips, monkeypatch):
    def missing():
        raise ImportError('the reader "pyav" needs PyAV')

    monkeypatch.setattr("siammae.frames.pyav_reader.load", missing)
    with pytest.raises(ImportError, match="needs PyAV"):
        stream(clips, reader="pyav")
