"""The training loop, to be read from top to bottom."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

import torch
from tqdm import tqdm

from siammae.clips.clip import Clip, said
from siammae.clips.listing import find_clips
from siammae.clips.skipped import SKIPPED_FILE, SkippedClips
from siammae.config import PretrainConfig
from siammae.distributed import Processes, join_processes
from siammae.errors import StoppedError
from siammae.frames import PathLike
from siammae.outputs import WAY_OUT, ResultFolder, claim_folder, hold_folder
from siammae.pretraining.checkpoint import (
    CONFIG_FILE,
    LOG_FILE,
    STATES_FOLDER,
    VIDEOS_FILE,
    claim_videos,
    cut_log,
    load_state,
    save_state,
    state_files,
)
from siammae.pretraining.data.batches import clips_per_step, read_batches
from siammae.pretraining.data.crops import Pairs
from siammae.pretraining.data.pairs import VideoPairs
from siammae.pretraining.learner import Learner
from siammae.pretraining.loggers import EVENTS_FOLDER, open_loggers
from siammae.pretraining.monitor import PICTURES_FOLDER, Monitor
from siammae.pretraining.run_log import RunLog
from siammae.pretraining.schedule import learning_rate, total_steps
from siammae.pretraining.step import choose_precision, train_step
from siammae.pretraining.stopping import StopRequest

logger = logging.getLogger(__name__)

MODEL_FOLDER, AVERAGE_FOLDER = "model", "model_ema"
_WRITTEN = {  # files and folders, and what a run writes into these
    **dict.fromkeys((CONFIG_FILE, LOG_FILE, SKIPPED_FILE, VIDEOS_FILE), ""),
    STATES_FOLDER: r"/step-\d+\.pt",
    PICTURES_FOLDER: r"/step-\d+\.png",
    EVENTS_FOLDER: r"/events\.out\.tfevents\..*",
    **dict.fromkeys((MODEL_FOLDER, AVERAGE_FOLDER), r"/(config\.json|model\.safetensors|README\.md)"),
}
_GO_ON, _STOP, _FAILED = range(3)  # what the processes tell each other before a step; the largest counts


def pretrain(
    config: PretrainConfig,
    *,
    resume: PathLike | Literal["auto"] | None = None,
    device: torch.device | str | None = None,
    max_steps: int | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> Path:
    """Train from video pairs.

    Same configuration, videos and machine give bit-identical weights on a CPU, also when a run is interrupted and
    resumed: Ctrl-C, SIGTERM, SIGUSR1, SIGHUP and any error save its state first, and a killed run goes on from its last
    saved state.
    Processes that torchrun started share every batch; with another number of them the weights are the same but for
    the rounding of sums, and but for what depends on the company of a pair: ``match_weight``, and dropout in the
    decoder ``"cropmae"``.

    Args:
        config: everything the result depends on.
        resume: the output folder of an interrupted run with the same configuration; ``"auto"`` = ``config.output_dir``
            where it holds a saved state, else a new run, as restarts by torchrun or a scheduler need it.
        device: None = CUDA where there is one, else the CPU. Under torchrun each process takes a GPU of its own.
        max_steps: stop after this many optimiser steps in this sitting, with the state saved.
        overwrite: begin anew where there is a run already; it is deleted once all is ready for the first step.
        progress: show a bar with losses, learning rate, pairs per second and the share of time spent waiting for data.

    Returns:
        ``output_dir/model``, loadable by :meth:`siammae.SiamMAE.from_pretrained`.

    Raises:
        ValueError: the output folder holds another run or what siammae did not write, or the configuration does not fit
            the videos, ``init`` or the number of processes; or both ``resume`` and ``overwrite`` are given.
        BlockingIOError: another run is writing into the output folder; says which.
        FileNotFoundError: there are no videos at ``config.videos``.
        CheckpointError: ``resume`` has no state, or one of another configuration.
        FloatingPointError: the loss is no longer finite.
        KeyboardInterrupt: a signal stopped the run, the number of which is its attribute ``signal``; its state is
            saved.
        WorkerError: another of several processes failed, or one that reads ahead.
        DatasetError: too many clips cannot be read, or ``config.probe`` is not in DAVIS's layout.
        ImportError: a reader or logger is not installed.

    Example:
        >>> import numpy as np
        >>> import siammae
        >>> with siammae.VideoWriter("clip.mp4") as writer:
        ...     for frame in np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8):
        ...         writer.write(frame)
        >>> network = siammae.ModelConfig.vit("tiny", patch_size=8, image_size=32, depth=1, decoder_depth=1)
        >>> config = siammae.PretrainConfig(
        ...     videos="clip.mp4", output_dir="run", model=network, frame_gap=(1, 4), batch_size=2, workers=0
        ... )
        >>> folder = siammae.pretrain(config, device="cpu", max_steps=1)
        >>> siammae.SiamMAE.from_pretrained(folder).config == network
        True
    """
    if overwrite and resume is not None:
        raise ValueError(f"resume is {resume!r} and overwrite is True: a run goes on or begins anew. Give one of them.")
    target = _pick_device(device)
    with join_processes(cuda=target.type == "cuda") as processes, ExitStack() as held:
        clips = processes.together(lambda: find_clips(config.videos))
        resume = _resumed_folder(config, resume)
        processes.together(lambda: _check_videos(config, clips, processes))
        results = processes.together(
            lambda: None if processes.rank else held.enter_context(_hold_output(config, resume, overwrite))
        )
        config = choose_precision(config, target)
        learner = processes.together(lambda: Learner(config, target, processes, random=resume is not None))
        start = 0
        if resume is not None:
            state = processes.together(lambda: load_state(resume, config))
            start = int(state["step"])
            processes.together(lambda: learner.restore(state))
        total = total_steps(config, len(clips))
        stop = total if max_steps is None else min(total, start + max_steps)
        processes.together(lambda: None if results is None else _take_over(config, clips, resume, start, results))
        return _train(
            config, clips, learner, range(start, stop), total, processes, progress=progress and processes.rank == 0
        )


def _train(
    config: PretrainConfig,
    clips: Sequence[Clip],
    learner: Learner,
    steps: range,
    total: int,
    processes: Processes,
    *,
    progress: bool,
) -> Path:
    """Make the steps of one sitting and save what they lead to."""
    stream = processes.together(lambda: VideoPairs(clips, config))
    loggers = processes.together(lambda: [] if processes.rank else open_loggers(config))
    report = None if processes.rank else Path(config.output_dir) / SKIPPED_FILE
    skipped = SkippedClips(len(clips), config.max_skipped, report)
    bar = tqdm(total=total, initial=steps.start, desc="pretrain", disable=not progress)
    with ExitStack() as closing, StopRequest() as request, bar:
        for one in loggers:
            closing.callback(one.close)
        run_log = RunLog(config, processes, bar, loggers)
        monitor = processes.together(lambda: Monitor(config, processes, stream, run_log, loggers))
        batches = closing.enter_context(
            contextlib.closing(read_batches(stream, config, processes, steps, learner.device, run_log.waited))
        )

        def save(step: int) -> Path:
            return _save(config, learner, step, processes, run_log, skipped)

        done, verdict, error = steps.start, _GO_ON, None
        try:
            for step in steps:
                pairs, error = _next(batches, skipped)
                verdict = processes.highest(_FAILED if pairs is None else _STOP if request.received else _GO_ON)
                if verdict != _GO_ON or pairs is None:
                    break
                rate = learning_rate(step, config, total)
                losses = train_step(learner, pairs, config, step, rate, processes)
                done = step + 1
                run_log.add(done, losses, rate)
                if done % config.checkpoint_every == 0 and done < steps.stop:
                    save(done)
                monitor.look(done, learner)
            exported = save(done)
        except Exception as trouble:
            if processes.count == 1 and not learner.changing:
                _rescue(save, done, trouble)
            raise
    if verdict == _FAILED:
        processes.raise_all(error)
    if verdict == _STOP:
        message = f"stopped at step {done} of {total}; the state is saved, resume={config.output_dir!r} goes on"
        raise StoppedError(message, request.received or signal.SIGINT)
    return exported


def _rescue(save: Callable[[int], object], step: int, trouble: Exception) -> None:
    """Save what was learnt before an error ends the run; a loss that is not finite is never saved."""
    if isinstance(trouble, FloatingPointError):
        return
    try:
        save(step)
    except Exception as error:  # such as a disk that is full
        logger.warning("the state of step %d cannot be saved (%s): resume from the one before", step, said(error))
    else:
        logger.warning("the state of step %d is saved: resume goes on", step)


def _next(batches: Iterator[Pairs], skipped: SkippedClips) -> tuple[Pairs | None, Exception | None]:
    """Return the next batch, or what went wrong: the other processes must hear of it before this one leaves."""
    try:
        pairs = next(batches)
        skipped.add(pairs.skipped)
    except Exception as error:
        return None, error
    return pairs, None


def _save(
    config: PretrainConfig, learner: Learner, step: int, processes: Processes, run_log: RunLog, skipped: SkippedClips
) -> Path:
    """Save the state and the network as it is now, and let the first process know all skipped clips."""
    run_log.flush()  # nothing unchecked is ever saved
    output, wanted = Path(config.output_dir), processes.rank == 0 or config.parallel == "fsdp"
    with run_log.aside():
        seen = processes.gather(list(skipped.reasons.items()))
        parts, copies = (learner.state(), learner.copies()) if wanted else ({}, {})

        def write() -> None:
            if processes.rank == 0:
                skipped.learn(pair for pairs in seen for pair in pairs)
                save_state(config, parts, step)
                for name, model in copies.items():
                    model.save_pretrained(output / name)

        processes.together(write)
    return output / MODEL_FOLDER


def _pick_device(device: torch.device | str | None) -> torch.device:
    """Return the device of this process and make it CUDA's current one."""
    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if target.type == "cuda":
        if str(target) == "cuda":
            target = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        torch.cuda.set_device(target)
    return target


def _take_over(
    config: PretrainConfig, clips: Sequence[Clip], resume: PathLike | None, start: int, results: ResultFolder
) -> None:
    """Delete the run that is overwritten, if any, and write down what this sitting trains on, from which step."""
    if resume is None:
        results.clear()
    for name in _WRITTEN:
        results.path(name)
    claim_videos(config.output_dir, clips, resume=resume)
    cut_log(config.output_dir, start)


def _resumed_folder(config: PretrainConfig, resume: PathLike | None) -> PathLike | None:
    if resume != "auto":
        return resume
    return config.output_dir if state_files(config.output_dir) else None


def _check_videos(config: PretrainConfig, clips: Sequence[Clip], processes: Processes) -> None:
    """Check that all processes see the same videos and share a batch equally."""
    clips_per_step(config, processes)
    seen = processes.gather([clip.name for clip in clips])
    if any(names != seen[0] for names in seen):
        raise ValueError(
            f"the processes see other videos at {config.videos}: {[len(names) for names in seen]}. Wait until all "
            "machines see the same files."
        )


@contextmanager
def _hold_output(config: PretrainConfig, resume: PathLike | None, overwrite: bool) -> Iterator[ResultFolder]:
    """Hold the folder against other runs, once it is sure that nothing in it is another's."""
    output = Path(config.output_dir)
    names = "|".join(re.escape(name) + below for name, below in _WRITTEN.items())
    with claim_folder(output, names, inputs=[config.videos, config.init, config.probe], overwrite=True) as results:
        if resume is None or Path(resume).resolve() != output.resolve():
            if state_files(output) and not overwrite:
                going_on = f"go on with it (--resume, in Python resume={str(output)!r})"
                raise ValueError(f"{output} holds a run already: {going_on}, {WAY_OUT}")
            if others := [name for name in results.results() if not results.wrote(name)]:
                raise ValueError(
                    f"{output} holds {others[0]}, which siammae did not write: choose another output, or move it away."
                )
        with hold_folder(output / STATES_FOLDER):
            yield results
