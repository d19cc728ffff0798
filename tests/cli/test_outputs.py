"""All commands against what can happen to outputs; a new command is covered by being listed in CASES."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import siammae
from siammae.cli import _parser, main
from siammae.frames import write_image
from siammae.outputs import MARKER, WAY_OUT, claim_files, hold_folder
from tests.annotate.projects import draw, session
from tests.convert.foreign import foreign_tensors
from tests.evaluation.toy import write_davis
from tests.helpers import moving_square, tiny_model, write_video
from tests.pretraining.runs import make_clips

RULES = ["--short-side", "32", "--set", "queue_length=1", "--quiet"]
CLIP = ["--frames", "2", "--gap", "1"]
MASKS = ["{in}/frames", "--mask", "{in}/mask.png", "-o", "{out}", *RULES]
POINTS = ["{in}/clip.mp4", "--points", "{in}/p.csv", "-o", "{out}", *RULES]
DAVIS = ["davis", "{in}/DAVIS", *RULES]
SEARCH = "--choose-split val --choose a --report b --try top_k=3"
NETWORK = "--size tiny --depth 1 --patch-size 16 --image-size 32 --decoder-dim 32 --decoder-depth 1 --decoder-heads 2"
TRAINING = "--epochs 2 --warmup-epochs 0 --batch-size 2 --workers 0 --precision fp32 --device cpu --quiet"


class Case(NamedTuple):
    """A command that writes.

    Attributes:
        argv: it, with the places {in}, {model} and {out}, without ``--model``.
        out: the output, in a folder that is not there yet; one without a suffix is a folder.
        same: an input as the output; None where the output is no place of its own.
        taken: another program's file that is there already, ``out`` itself or in it; None where none is in the way.
        again: options that do the work of a stopped run once more.
        other: options without which a finished command goes on, and with which it does not.
    """

    argv: list[str]
    out: str
    same: str | None
    taken: str | None = ""
    again: tuple[str, ...] = ("--overwrite",)
    other: tuple[str, ...] = ()


CASES = {
    "propagate": Case(MASKS, "m", "frames", "00000.png"),
    "propagate overlay": Case([*MASKS, "--overlay"], "m", None, "overlay.mp4"),
    "propagate formats": Case([*MASKS, "--format", "yolo", "--format", "coco"], "m", None, "coco.json"),
    "track": Case(POINTS, "t.csv", "p.csv"),
    "track overlay": Case([*POINTS, "--overlay"], "clip.csv", "clip.csv", None),
    "track formats": Case([*POINTS, "--format", "deeplabcut", "--format", "coco"], "t.csv", "p.csv"),
    "extract": Case(["{in}/frames", "-o", "{out}", "--quiet"], "f.safetensors", "model/model.safetensors"),
    "extract many": Case(
        ["{in}/clips", "-o", "{out}", "--quiet", "--workers", "1"],
        "features",
        "clips",
        None,
        again=(),
        other=("--short-side", "24"),
    ),
    "propagate list": Case(
        ["--list", "{in}/masks.csv", "-o", "{out}", *RULES, "--workers", "1"],
        "lists",
        None,
        None,
        again=(),
        other=("--top-k", "3"),
    ),
    "track list": Case(
        ["--list", "{in}/points.csv", "-o", "{out}", *RULES, "--workers", "1"],
        "lists",
        "model",
        None,
        again=(),
        other=("--top-k", "3"),
    ),
    "reconstruct": Case(["{in}/clip.mp4", "-o", "{out}", *CLIP], "s.mp4", "clip.mp4"),
    "reconstruct all": Case(["{in}/clip.mp4", "-o", "{out}", *CLIP], "s", None, "reconstruction.gif"),
    "attend": Case(["{in}/frames", "-o", "{out}", "--short-side", "32", "--video", *CLIP], "a", "frames", "cls.png"),
    "demo": Case(["-o", "{out}", *RULES], "d", "model", "masks/00000.png"),
    "evaluate": Case([*DAVIS, "--json", "{out}"], "scores.json", "model/config.json"),
    "evaluate markdown": Case([*DAVIS, "--baseline", "rgb", "--markdown", "{out}"], "s.md", "model/config.json"),
    "evaluate predictions": Case([*DAVIS, "-o", "{out}"], "runs", "DAVIS", None, again=(), other=("--top-k", "3")),
    "sweep": Case(
        [*DAVIS, *SEARCH.split(), "--json", "{out}"],
        "trials.json",
        "model/config.json",
    ),
    "shard": Case(
        ["{in}/clips", "-o", "{out}", "--quiet"], "shards", "clips", None, again=(), other=("--quality", "50")
    ),
    "pretrain": Case(
        ["{in}/clips", "-o", "{out}", *NETWORK.split(), *TRAINING.split()],
        "run",
        "clips",
        "states/step-00000001.pt",
        again=("--auto-resume",),
    ),
    "convert": Case(["{in}/vit/model.safetensors", "-o", "{out}"], "c", "vit", "README.md"),
    "relabel": Case(["{in}/labels.json", "{out}", "--format", "coco"], "l.json", "labels.json"),
    "relabel folder": Case(["{in}/masks", "{out}", "--format", "yolo"], "l", "masks", "labels/0.txt"),
    "export": Case(["{in}/project", "--format", "coco", "-o", "{out}"], "e.json", "project/project.json"),
    "export folder": Case(["{in}/project", "--format", "yolo", "-o", "{out}"], "e", "project", "labels/0.txt"),
    "export overlay": Case(["{in}/project", "--overlay", "-o", "{out}"], "e.mp4", "clip.mp4"),
}
NAMED_BY_SETTINGS = {"extract many", "propagate list", "track list"}  # their results
WRITE_NOTHING = {"models", "info", "formats", "upload"}
# It runs until it is stopped, goes on with what is there, and replaces nothing: tests/annotate/test_command.py has its
# signals, kills, and a second one on the same project.
GOES_ON = {"annotate"}
WITHOUT_MODEL = {"shard", "pretrain", "convert", "relabel", "export"}


class Finished(NamedTuple):
    """What a command leaves that nothing disturbs.

    Attributes:
        out: its output.
        seconds: how long it took.
        sizes: of the files in it, by their paths; of the output itself where it is a file.
    """

    out: Path
    seconds: float
    sizes: dict[str, int]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    video, masks = moving_square(4, (32, 48), 12, (4, 4))
    write_video(folder / "clip.mp4", video)
    for index, frame in enumerate(video):
        for name in ("frames", "masks"):
            (folder / name).mkdir(exist_ok=True)
        write_image(folder / "frames" / f"{index}.png", frame)
        siammae.write_mask(folder / "masks" / f"{index:05d}.png", masks[index])
    siammae.write_mask(folder / "mask.png", masks[0])
    (folder / "p.csv").write_text("name,x,y\n" + "".join(f"point{number},{8 + number},10\n" for number in range(8)))
    write_davis(folder / "DAVIS", (("a", 3), ("b", 3)))
    tiny_model().save_pretrained(folder / "model")
    make_clips(folder / "clips", 2)
    with session(folder / "project", folder / "clip.mp4") as project:
        for index, mask in enumerate(masks):
            draw(project, index, mask)
    (folder / "masks.csv").write_text("video,mask\nclip.mp4,mask.png\nframes,mask.png\n")
    (folder / "points.csv").write_text("video,points\nclip.mp4,p.csv\nframes,p.csv\n")
    (folder / "vit").mkdir()
    save_file(foreign_tensors("timm_vit_small_patch16", depth=1), folder / "vit" / "model.safetensors")
    siammae.write_annotations(folder / "labels.json", siammae.read_annotations(folder / "masks"), format="coco")
    return folder


@pytest.fixture(scope="module")
def finish(inputs, tmp_path_factory):
    """Run a command once for all tests that compare with it."""
    finished = {}

    def run(name):
        if name not in finished:
            out, began = tmp_path_factory.mktemp("finished") / CASES[name].out, time.monotonic()
            assert main(command(name, inputs, out)) == 0
            finished[name] = Finished(out, time.monotonic() - began, sizes(out))
        return finished[name]

    return run


def command(name, inputs, out, *more):
    argv = [part.replace("{in}", str(inputs)).replace("{out}", str(out)) for part in CASES[name].argv]
    word = name.partition(" ")[0]
    return [word, *argv, *([] if word in WITHOUT_MODEL else ["--model", str(inputs / "model")]), *more]


def sizes(out):
    """The sizes of all files that are the output or in its folder, an overlay video beside it included."""
    files = list(out.rglob("*")) if out.is_dir() else [out, out.with_suffix(".mp4")]
    return {
        str(file.relative_to(out.parent)): file.stat().st_size
        for file in files
        if file.is_file() and file.name != MARKER
    }


def refused(capsys, argv):
    """Run a command that must fail at once in one line, and return the line."""
    assert main(argv) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    return line


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def leftovers(folder):
    return [path.name for path in folder.rglob(".*") if path.name != ".siammae"]


def test_every_command_is_listed():
    (commands,) = [action for action in _parser()._actions if action.dest == "command"]
    assert set(commands.choices) == {name.partition(" ")[0] for name in CASES} | WRITE_NOTHING | GOES_ON
    for name, parser in commands.choices.items():
        deeper = [action for action in parser._actions if action.dest == "dataset" and isinstance(action.choices, dict)]
        for one in [parser, *(two for action in deeper for two in action.choices.values())]:
            assert ("--overwrite" in one.format_help()) == (
                name not in WRITE_NOTHING | GOES_ON and not (deeper and one is parser)
            )


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.same])
def test_output_that_is_an_input_is_refused(name, inputs, capsys):
    before = contents(inputs)
    argv = command(name, inputs, inputs / CASES[name].same, "--overwrite")
    assert "is an input, and inputs are never overwritten" in refused(capsys, argv)
    assert contents(inputs) == before


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.taken is not None])
def test_output_of_another_program_is_refused(name, inputs, tmp_path, capsys):
    out = tmp_path / CASES[name].out
    taken = out / CASES[name].taken
    taken.parent.mkdir(exist_ok=True, parents=True)
    taken.write_text("mine")
    assert WAY_OUT in refused(capsys, command(name, inputs, out))
    assert taken.read_text() == "mine"
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("name", CASES)
def test_results_that_are_there_are_refused_and_then_replaced_when_asked_for(name, inputs, finish, tmp_path, capsys):
    done, out = finish(name), tmp_path / "new" / CASES[name].out
    shutil.copytree(done.out.parent, out.parent)
    before, argv = contents(tmp_path), command(name, inputs, out, *CASES[name].other)
    capsys.readouterr()
    assert WAY_OUT in refused(capsys, argv)
    assert contents(tmp_path) == before
    assert main([*argv, "--overwrite"]) == 0
    if name in NAMED_BY_SETTINGS:
        assert len(sizes(out)) == len(done.sizes)
    else:
        assert sizes(out).keys() == done.sizes.keys()
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("name", CASES)
def test_output_that_cannot_be_written_is_refused_before_the_work(name, inputs, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    sources = inputs if name == "pretrain" else tmp_path / "gone"  # the work would fail at once
    error = refused(capsys, command(name, sources, tmp_path / "file" / CASES[name].out))
    assert "cannot write" in error
    assert "file is no folder. Choose another output." in error


@pytest.mark.parametrize("name", CASES)
def test_output_that_another_run_is_writing_is_refused_before_the_work(name, inputs, tmp_path, capsys):
    out = tmp_path / CASES[name].out
    sources = inputs if name == "pretrain" else tmp_path / "gone"
    file = out / "reconstruction.png" if name == "reconstruct all" else out
    with ExitStack() as held:
        held.enter_context(claim_files(file) if file.suffix else hold_folder(file))
        error = refused(capsys, command(name, sources, out))
    assert f"another run is writing {file} (process {os.getpid()} on " in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("part", ["half", "nearly all"])
@pytest.mark.parametrize("name", CASES)
def test_full_disk_ends_in_one_line_and_leaves_nothing_broken(name, part, inputs, finish, full_disk, tmp_path, capsys):
    done, out = finish(name), tmp_path / "new" / CASES[name].out
    largest = max(done.sizes.values())
    capsys.readouterr()
    with full_disk(largest // 2 if part == "half" else largest - 64):
        code = main(command(name, inputs, out))
    *others, line = capsys.readouterr().err.splitlines()
    assert code == 1
    assert re.search("File too large|broke off|cannot write", line), line
    assert all("cannot be saved" in other for other in others)  # pretraining tries once more
    assert leftovers(tmp_path) == []
    written = sizes(out)
    exact = {file for file in written if not file.endswith(("json", "jsonl", "md", "parquet"))}  # others hold seconds
    assert {file: written[file] for file in exact} == {file: done.sizes[file] for file in exact}
    assert {
        file for file in written if not file.endswith(("progress.json", "progress.jsonl"))
    } < done.sizes.keys()  # from which runs go on
    assert main(command(name, inputs, out, *CASES[name].again)) == 0
    assert sizes(out).keys() >= done.sizes.keys()  # pretraining has a state of where it was stopped, too


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("name", CASES)
def test_signal_at_a_random_moment_leaves_nothing_half_written(name, number, inputs, finish, tmp_path, capsys):
    done, out = finish(name), tmp_path / "new" / CASES[name].out
    before = signal.signal(number, lambda *_: None)  # it may come after the end
    moment = float(np.random.default_rng([number, list(CASES).index(name)]).uniform(0, done.seconds))
    timer = threading.Timer(moment, os.kill, (os.getpid(), number))
    try:
        timer.start()
        code = main(command(name, inputs, out))
        timer.join()
    finally:
        signal.signal(number, before)
        torch.set_grad_enabled(True)  # a signal between the two halves of torch.no_grad() leaves it off
    assert code in (0, 128 + number)
    assert "Traceback" not in capsys.readouterr().err
    assert leftovers(tmp_path) == []
    assert main(command(name, inputs, out, *CASES[name].again)) == 0
    assert sizes(out).keys() >= done.sizes.keys()  # pretraining has a state of where it was stopped, too


@pytest.mark.parametrize("name", CASES)
def test_closed_output_stops_nothing(name, inputs, finish, tmp_path, monkeypatch):
    done, out = finish(name), tmp_path / CASES[name].out
    monkeypatch.setattr(sys, "stdout", None)
    assert main(command(name, inputs, out)) == 0
    assert sizes(out).keys() == done.sizes.keys()


@pytest.mark.parametrize(
    ("redirection", "code", "message"),
    [(">&-", 0, ""), (">/dev/full", 1, "siammae models: error: the standard output cannot be written: No space left")],
)
def test_streams_of_a_process(redirection, code, message):
    shell = f"{sys.executable} -m siammae models {redirection}"
    done = subprocess.run(shell, shell=True, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == code
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == bool(message)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried\nmore"), 1, "error: not enough memory"),
        (MemoryError(), 1, "error: not enough memory (MemoryError)"),
        (RecursionError("maximum recursion depth exceeded"), 1, "error: an input is nested too deeply"),
        (OverflowError("too large"), 1, "error: too large"),
        (__import__("csv").Error("field larger than field limit"), 1, "error: field larger"),
        (__import__("safetensors").SafetensorError("bad header\nmore"), 1, "error: bad header"),
        (KeyError("x"), 70, "internal error: KeyError: 'x'. Please report it, with what SIAMMAE_TRACEBACK=1 shows."),
        (KeyboardInterrupt("the state is saved"), 130, "the state is saved"),
    ],
)
def test_every_error_ends_in_one_line(error, code, message, monkeypatch, capsys):
    def fail(args):
        raise error

    monkeypatch.setattr("siammae.cli.models.run", fail)
    assert main(["models"]) == code
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert message in lines[0]
    if code != 130:
        monkeypatch.setenv("SIAMMAE_TRACEBACK", "1")
        with pytest.raises(type(error)):
            main(["models"])


def test_error_in_place_of_an_interrupted_import_counts_as_the_stop(monkeypatch, capsys):
    def fail(args):
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            raise ImportError("numpy cannot be imported") from None

    monkeypatch.setattr("siammae.cli.models.run", fail)
    assert main(["models"]) == 143
    assert capsys.readouterr().err.strip() == "siammae: stopped by SIGTERM"
