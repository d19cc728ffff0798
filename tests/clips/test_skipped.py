"""A folder in which many files are odd or broken: all of the stream is read, and exactly the broken ones are named."""

import logging

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from siammae.clips.clip import Skipped
from siammae.clips.listing import find_clips
from siammae.clips.skipped import SkippedClips
from siammae.errors import DatasetError, WorkerError
from siammae.pretraining import pretrain
from siammae.pretraining.data.crops import collate
from siammae.pretraining.data.pairs import VideoPairs
from tests.pretraining.runs import make_clips, read_log, run_config, saved_step
from tests.pretraining.together import run_together
from tests.videos import encode, numbered, sound

BROKEN = {"cut.mp4", "cut-in-half.mp4", "empty.mp4", "text.mp4", "sound.mp4", "one-frame.mp4"}
ODD = {"vertical.mp4", "one-pixel.avi", "ten-bit.mp4", "odd-times.mp4", "upper.MP4", "b-frames.avi"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = make_clips(tmp_path_factory.mktemp("corpus"), count=6)
    whole = encode(folder / "upper.MP4", numbered(30)).read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) * 3 // 4])  # the index at its end is lost
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("this is no video\n" * 200)
    sound(folder / "sound.mp4")
    encode(folder / "one-frame.mp4", numbered(1))
    front = encode(folder / "cut-in-half.mp4", numbered(30), options={"g": "30"}, index_first=True)
    front.write_bytes(front.read_bytes()[: front.stat().st_size // 10])
    encode(folder / "vertical.mp4", numbered(10, size=(128, 48)))
    encode(folder / "one-pixel.avi", np.full((5, 1, 1, 3), 90, np.uint8), codec="rawvideo", pixels="bgr24")
    encode(folder / "ten-bit.mp4", numbered(10), pixels="yuv420p10le")
    encode(folder / "odd-times.mp4", numbered(10), stamps=[i * i for i in range(10)])
    encode(folder / "b-frames.avi", numbered(20), codec="mpeg4", options={"bf": "2"})
    return folder


@pytest.mark.parametrize(("reader", "workers", "cache_mb"), [("opencv", 2, 0), ("opencv", 0, 64), ("pyav", 0, 0)])
def test_stream_over_a_corpus_with_broken_files_names_exactly_those(
    corpus, tmp_path, caplog, reader, workers, cache_mb
):
    clips = find_clips(corpus)
    assert {clip.name for clip in clips} == BROKEN | ODD | {f"clip{index}.avi" for index in range(6)}
    config = run_config(videos=corpus, reader=reader, cache_mb=cache_mb, max_skipped=0.4, frame_gap=(4, 48))
    tally = SkippedClips(len(clips), config.max_skipped, tmp_path / "skipped.txt")
    loader = DataLoader(
        VideoPairs(clips, config),
        sampler=range(2 * len(clips)),
        batch_size=3,
        num_workers=workers,
        collate_fn=collate,
    )
    with caplog.at_level(logging.WARNING, logger="siammae"):
        for batch in loader:
            assert batch.frames.shape == (6, 2, 3, 32, 32)
            tally.add(batch.skipped)
    assert set(tally.reasons) == BROKEN
    assert sorted(
        record.getMessage().split(":")[0] for record in caplog.records if record.message.startswith("skipping")
    ) == [f"skipping {name}" for name in sorted(BROKEN)]
    lines = [line.split("\t") for line in (tmp_path / "skipped.txt").read_text().splitlines()]
    assert dict(lines) == tally.reasons


def test_workers_and_cache_skip_the_same_clips(corpus):
    clips = find_clips(corpus)
    runs = []
    for workers, cache_mb in ((0, 0), (1, 64), (2, 0)):
        config = run_config(videos=corpus, cache_mb=cache_mb, max_skipped=0.5)
        loader = DataLoader(
            VideoPairs(clips, config), sampler=range(24), batch_size=4, num_workers=workers, collate_fn=collate
        )
        runs.append(list(loader))
    for run in runs[1:]:
        for one, other in zip(run, runs[0], strict=True):
            assert torch.equal(one.frames, other.frames)
            assert tuple(one.skipped) == tuple(other.skipped)


def test_broken_clips_counts_each_once_and_stops_at_too_many(tmp_path, caplog):
    tally = SkippedClips(20, 0.1, tmp_path / "skipped.txt")
    with caplog.at_level(logging.WARNING, logger="siammae"):
        for _ in range(3):
            tally.add([Skipped("a.mp4", "two\nlines"), Skipped("b.mp4", "gone")])
    assert [record.getMessage() for record in caplog.records] == ["skipping a.mp4: two lines", "skipping b.mp4: gone"]
    message = (
        r"3 of 20 clips cannot be read, more than the share max_skipped=0\.1 allows.*\n  a\.mp4: two lines\n  b\.mp4"
    )
    with pytest.raises(DatasetError, match=message):
        tally.add([Skipped("c.mp4", "why")])
    assert (tmp_path / "skipped.txt").read_text() == "a.mp4\ttwo lines\nb.mp4\tgone\nc.mp4\twhy\n"


def test_names_of_skipped_clips_forge_no_line_and_command_no_terminal(tmp_path, caplog):
    tally = SkippedClips(2, 0.0, tmp_path / "skipped.txt")
    with pytest.raises(DatasetError, match=r"\n  a\\nb\\x1b\[2J\.mp4: no \\x07 codec$"):
        tally.add([Skipped("a\nb\x1b[2J.mp4", "no \x07 codec")])
    assert [record.getMessage() for record in caplog.records] == [r"skipping a\nb\x1b[2J.mp4: no \x07 codec"]
    assert (tmp_path / "skipped.txt").read_text() == "a\\nb\\x1b[2J.mp4\tno \\x07 codec\n"


@pytest.mark.parametrize(
    ("broken", "total", "max_skipped", "stops"),
    [
        (1, 4, 0.1, False),
        (2, 4, 0.1, True),
        (1, 4, 0.0, True),
        (1, 1, 0.1, True),
        (2, 20, 0.1, False),
        (2, 3, 0.9, False),
    ],
)
def test_one_broken_clip_of_a_few_does_not_stop_a_run_that_allows_any(broken, total, max_skipped, stops):
    tally = SkippedClips(total, max_skipped)
    skipped = [Skipped(str(index), "why") for index in range(broken)]
    if stops:
        with pytest.raises(DatasetError, match=f"{broken} of {total} clips cannot be read"):
            tally.add(skipped)
    else:
        tally.add(skipped)


def test_broken_clips_names_a_few_of_many():
    tally = SkippedClips(20, 0.0)
    with pytest.raises(DatasetError, match=r"(?s)9 of 20 clips.*\n  4: why\n  and 4 more$"):
        tally.add([Skipped(str(index), "why") for index in range(9)])


def test_broken_clips_of_a_new_sitting_begins_a_new_report(tmp_path):
    report = tmp_path / "skipped.txt"
    SkippedClips(9, 0.5, report).add([Skipped("a", "why")])
    SkippedClips(9, 0.5, report).add([])
    assert not report.exists()


def test_run_over_a_corpus_with_broken_files_completes_and_reports_them(corpus, tmp_path):
    config = run_config(corpus, tmp_path, max_skipped=0.4, epochs=2, batch_size=6)
    pretrain(config, device="cpu")
    assert {line.split("\t")[0] for line in (tmp_path / "skipped.txt").read_text().splitlines()} == BROKEN


def test_run_of_two_processes_over_a_corpus_with_broken_files_reports_those_of_both(corpus, tmp_path):
    config = run_config(corpus, tmp_path / "two", max_skipped=0.4, epochs=2, batch_size=12)
    assert run_together([config, config]) == [str(tmp_path / "two" / "model")] * 2
    assert {line.split("\t")[0] for line in (tmp_path / "two" / "skipped.txt").read_text().splitlines()} == BROKEN
    pretrain(config.replace(output_dir=str(tmp_path / "one")), device="cpu")
    losses = [[line["loss"] for line in read_log(tmp_path / name)] for name in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("processes", [1, 2])
def test_run_with_too_many_broken_files_stops_with_their_names_and_its_state_saved(corpus, tmp_path, processes):
    config = run_config(corpus, tmp_path, max_skipped=0.05, epochs=50, batch_size=4)
    given = run_together([config] * processes)
    assert any(isinstance(error, DatasetError) and "max_skipped=0.05" in str(error) for error in given)
    assert all(isinstance(error, DatasetError | WorkerError) for error in given)
    assert saved_step(tmp_path) is not None
