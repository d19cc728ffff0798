"""Every video under every job: features made once, here or in several processes, results in the split's order."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from tqdm import tqdm

from siammae.config import PropagationConfig
from siammae.distributed import join_processes
from siammae.errors import printable
from siammae.evaluation.cache import FeatureCache
from siammae.evaluation.results import EvaluationResult, claim_folder, model_name
from siammae.evaluation.runs import Video
from siammae.features import FeatureExtractor, input_size
from siammae.frames import read_frames
from siammae.parallel.processes import Tick, map_in_processes
from siammae.propagation.affinity import Kernels

_V = TypeVar("_V", bound=Video)


class Benchmark(Protocol[_V]):
    """A data set and the rules by which it is scored; sent to worker processes, so it must be picklable."""

    @property
    def videos(self) -> Sequence[_V]:
        """What is scored, in the order of the scores."""
        ...

    @property
    def source(self) -> Mapping[str, str]:
        """What predictions depend on besides model and rules."""
        ...

    def place(self, video: _V) -> str:
        """Return where a video's predictions lie in the folder of a run."""
        ...

    def paths(self, folder: Path, video: _V) -> Sequence[Path]:
        """Return the files of ready results that are scored; one that is missing is an error."""
        ...

    def follow(self, video: _V, job: Job, tick: Tick) -> Any:  # noqa: ANN401 -- whatever results() takes
        """Predict and score a video."""
        ...

    def read(self, video: _V, folder: Path, tick: Tick) -> Any:  # noqa: ANN401 -- whatever results() takes
        """Score a video's ready results."""
        ...

    def results(
        self, scores: Mapping[str, Any], config: PropagationConfig | None, details: Mapping[str, Any]
    ) -> list[EvaluationResult]:
        """Sum up the scores of all videos: one result for each way of scoring."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A model under rules.

    Attributes:
        model: what makes the features.
        config: of the propagation.
        kernels: see :func:`siammae.topk_affinity`.
        output: folder for the predictions; None keeps nothing.
        overwrite: whether another run's predictions there are deleted.
        details: for the result, besides the model's name.
    """

    model: FeatureExtractor
    config: PropagationConfig
    kernels: Kernels = "auto"
    output: Path | None = None
    overwrite: bool = False
    details: Mapping[str, Any] | None = None

    def prepare(self, benchmark: Benchmark[_V]) -> None:
        """Mark the folder of predictions as this job's."""
        if self.output is not None:
            places = [benchmark.place(video) for video in benchmark.videos]
            what = (self.model, self.config, benchmark.source, places)
            claim_folder(self.output, *what, overwrite=self.overwrite)

    def score(self, benchmark: Benchmark[_V], video: _V, tick: Tick) -> Any:  # noqa: ANN401
        """Predict and score one video."""
        return benchmark.follow(video, self, tick)

    def input(self, frame_size: tuple[int, int]) -> tuple[object, ...]:
        """Return what the features of a frame depend on."""
        config = self.config
        size = network_input(self.model, config, frame_size)
        return id(self.model), size, config.interpolation, config.pixel_std or ()


@dataclass(frozen=True, slots=True)
class Ready:
    """Ready results of another program."""

    folder: Path

    def prepare(self, benchmark: Benchmark[_V]) -> None:
        """Look all files up before the first is scored: a gap shows at once, not after minutes."""
        for video in benchmark.videos:
            benchmark.paths(self.folder, video)

    def score(self, benchmark: Benchmark[_V], video: _V, tick: Tick) -> Any:  # noqa: ANN401
        """Score one video."""
        return benchmark.read(video, self.folder, tick)


def network_input(model: FeatureExtractor, config: PropagationConfig, frame_size: tuple[int, int]) -> tuple[int, int]:
    """Return the size ``(H, W)`` at which a frame enters the network."""
    return input_size(
        frame_size,
        patch_size=model.patch_size,
        resize=config.resize,
        side=config.resize_side,
        multiple=config.size_multiple,
        rounding=config.rounding,
        round_both=config.round_both,
    )


def evaluate(
    benchmark: Benchmark[_V], jobs: Sequence[Job | Ready], *, workers: int = 1, progress: bool = False
) -> list[list[EvaluationResult]]:
    """Score every video under every job.

    Jobs whose frames enter the same model in the same way share its features, which are made once a video. Under
    torchrun every process takes its share of the videos, and all of them return the whole.

    Args:
        benchmark: the data set.
        jobs: rows of the comparison.
        workers: processes on this machine; see :func:`map_in_processes`. With 1 the work is done in this one.
        progress: show a bar over all frames of all jobs.

    Returns:
        For each job one result for each way of scoring. ``details["seconds"]`` counts shared features with the first
        job that needed them.

    Raises:
        ValueError: ``workers`` is below 1, or a folder holds another run's results.
        WorkerError: a process failed.
    """
    if workers < 1:
        raise ValueError(f"workers is {workers}: it must be at least 1.")
    with join_processes() as processes:
        processes.first_before_others(lambda: _prepare(benchmark, jobs))
        longest_first = (
            sorted(benchmark.videos, key=lambda v: -len(v.frames)) if processes.count > 1 else benchmark.videos
        )
        part = _score(
            benchmark, jobs, processes.share(longest_first), workers=workers, progress=progress and processes.rank == 0
        )
        scored = {name: rows for other in processes.gather(part) for name, rows in other.items()}
        results = [_summary(benchmark, job, i, scored) for i, job in enumerate(jobs)]
        if processes.rank == 0:
            _report(jobs, results)
        processes.gather(None)  # no process goes on before the reports are there
    return results


def _prepare(benchmark: Benchmark[_V], jobs: Sequence[Job | Ready]) -> None:
    for job in jobs:
        job.prepare(benchmark)


# ---------------------------------------------------------------- videos

_Rows = dict[int, tuple[Any, float]]  # for each job, by its position, a video's scores and the seconds it took


@dataclass(frozen=True, slots=True)
class _Part(Generic[_V]):
    """A video under the jobs, by their positions, that share its features."""

    video: _V
    jobs: tuple[int, ...]

    @property
    def name(self) -> str:
        return self.video.name

    @property
    def cost(self) -> int:
        """Frames to follow, and once to make features of."""
        return len(self.video.frames) * (1 + len(self.jobs))

    @property
    def ticks(self) -> int:
        """Frames of all jobs."""
        return len(self.video.frames) * len(self.jobs)


def _score(
    benchmark: Benchmark[_V],
    jobs: Sequence[Job | Ready],
    videos: Sequence[_V],
    *,
    workers: int,
    progress: bool,
) -> dict[str, _Rows]:
    work = partial(_score_part, benchmark, jobs)
    parts = [_Part(video, tuple(group)) for video in videos for group in _sharing(jobs, video)]
    rows: dict[str, _Rows] = {video.name: {} for video in videos}
    with _bar(sum(part.ticks for part in parts), progress) as bar:
        if workers > 1 and len(parts) > 1:
            scored = map_in_processes(work, parts, workers=workers, done=lambda part: bar.update(part.ticks))
            for part, scores in zip(parts, scored, strict=True):
                rows[part.name] |= scores
            return rows
        for part in parts:
            bar.set_description(printable(part.name))
            before = bar.n
            rows[part.name] |= work(part, bar.update)
            bar.update(before + part.ticks - bar.n)  # what was there already is counted too
        return rows


@contextmanager
def _bar(frames: int, shown: bool) -> Iterator[Any]:
    with tqdm(total=frames, unit="frame", disable=not shown) as bar:
        yield bar


def _score_part(benchmark: Benchmark[_V], jobs: Sequence[Job | Ready], part: _Part[_V], tick: Tick) -> _Rows:
    """Score one video under jobs that share its features, one after the other."""
    rows: _Rows = {}
    for i, job in zip(part.jobs, _cached([jobs[i] for i in part.jobs]), strict=True):
        started = time.perf_counter()
        rows[i] = job.score(benchmark, part.video, tick), time.perf_counter() - started
    return rows


def _sharing(jobs: Sequence[Job | Ready], video: Video) -> list[list[int]]:
    """Group the jobs that need the same features of a video, by their positions."""
    if len(jobs) == 1:
        return [[0]]
    frame = next(read_frames(video.frames[0]))
    size = (frame.shape[0], frame.shape[1])
    keys = [job.input(size) if isinstance(job, Job) else (i,) for i, job in enumerate(jobs)]
    first = {key: i for i, key in reversed(list(enumerate(keys)))}
    order = sorted(range(len(jobs)), key=lambda i: first[keys[i]])
    return [list(group) for _, group in groupby(order, key=lambda i: first[keys[i]])]


def _cached(jobs: Sequence[Job | Ready]) -> Sequence[Job | Ready]:
    """Let jobs that share features have one cache; a single job would only fill memory with it."""
    if len(jobs) == 1 or not isinstance(jobs[0], Job):
        return jobs
    cache = FeatureCache(jobs[0].model)
    return [replace(job, model=cache) for job in jobs if isinstance(job, Job)]


# ---------------------------------------------------------------- results


def _summary(
    benchmark: Benchmark[_V], job: Job | Ready, index: int, scored: Mapping[str, _Rows]
) -> list[EvaluationResult]:
    rows = {video.name: scored[video.name][index] for video in benchmark.videos}
    effort = {
        "frames": sum(len(video.frames) for video in benchmark.videos),
        "seconds": round(sum(seconds for _, seconds in rows.values()), 3),
    }
    scores = {name: score for name, (score, _) in rows.items()}
    if isinstance(job, Ready):
        return benchmark.results(scores, None, effort)
    return benchmark.results(scores, job.config, {"model": model_name(job.model), **(job.details or {}), **effort})


def _report(jobs: Sequence[Job | Ready], results: Sequence[Sequence[EvaluationResult]]) -> None:
    """Write the scores beside the predictions of every job that keeps them."""
    for job, rows in zip(jobs, results, strict=True):
        if isinstance(job, Job) and job.output is not None:
            for result in rows:
                result.write(job.output / result.scored_at)
