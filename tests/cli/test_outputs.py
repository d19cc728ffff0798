"""All commands against what can happen to outputs; a new command is covered by being listed in CASES."""

import errno
import os
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import siammae
from siammae.cli import _parser, main
from siammae.frames import write_image
from siammae.outputs import claim_files, hold_folder
from tests.evaluation.toy import write_davis
from tests.helpers import moving_square, tiny_model, write_video

RULES = ["--short-side", "32", "--set", "queue_length=1", "--quiet"]
CLIP = ["--frames", "2", "--gap", "1"]


class Case(NamedTuple):
    """A command that writes.

    Attributes:
        argv: it, with the places {in}, {model} and {out}, without ``--model``.
        out: the output, in a folder that is not there yet.
        taken: a file that is there already, beside ``out`` or in it; None where a run goes on from what is there.
        same: an input as the output.
        runs: whether it is run; its refusals always are.
    """

    argv: list[str]
    out: str
    taken: str | None
    same: str | None
    runs: bool = True


CASES = {
    "propagate": Case(["{in}/frames", "--mask", "{in}/mask.png", "-o", "{out}", *RULES], "m", "00000.png", "frames"),
    "track": Case(["{in}/clip.avi", "--points", "{in}/p.csv", "-o", "{out}", *RULES], "t.csv", "", "p.csv"),
    "extract": Case(["{in}/frames", "-o", "{out}", "--quiet"], "f.safetensors", "", "model/model.safetensors"),
    "reconstruct": Case(["{in}/clip.avi", "-o", "{out}", *CLIP], "s.png", "", "clip.avi"),
    "attend": Case(["{in}/frames", "-o", "{out}", "--short-side", "32", *CLIP], "a", "cls.png", "frames"),
    "demo": Case(["-o", "{out}", *RULES], "d", "overlay.mp4", None, runs=False),
    "evaluate": Case(
        ["davis", "{in}/DAVIS", "--json", "{out}", *RULES], "scores.json", "", "model/config.json"
    ),
    "sweep": Case(
        ["davis", "{in}/DAVIS", "--json", "{out}", "--choose-split", "val", "--choose", "a", "--report", "b", "--try",
         "top_k=3", *RULES],
        "trials.json", "", "model/config.json",
    ),
    "shard": Case(["{in}/clip.avi", "-o", "{out}", "--quiet"], "shards", None, None),
    "convert": Case(["{in}/model/model.safetensors", "-o", "{out}"], "c", "README.md", "model", runs=False),
}  # fmt: skip
WRITE_NOTHING = {"models", "info", "formats"}
ELSEWHERE = {"pretrain", "relabel"}  # have their tests in tests/pretraining and beside this file
WITHOUT_MODEL = {"shard", "convert"}
RUN = [name for name, case in CASES.items() if case.runs]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    video, masks = moving_square(4, (32, 48), 12, (4, 4))
    write_video(folder / "clip.avi", video)
    (folder / "frames").mkdir()
    for index, frame in enumerate(video):
        write_image(folder / "frames" / f"{index}.png", frame)
    siammae.write_mask(folder / "mask.png", masks[0])
    (folder / "p.csv").write_text("name,x,y\na,10,10\n")
    write_davis(folder / "DAVIS", (("a", 3), ("b", 3)))
    tiny_model().save_pretrained(folder / "model")
    return folder


def command(name, inputs, out):
    argv = [part.replace("{in}", str(inputs)).replace("{out}", str(out)) for part in CASES[name].argv]
    return [name, *argv, *([] if name in WITHOUT_MODEL else ["--model", str(inputs / "model")])]


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
    assert set(commands.choices) == CASES.keys() | WRITE_NOTHING | ELSEWHERE
    for name in CASES.keys() - {"evaluate", "shard"}:
        assert "--overwrite" in commands.choices[name].format_help()


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.same])
def test_output_that_is_an_input_is_refused(name, inputs, capsys):
    before = contents(inputs)
    argv = [*command(name, inputs, inputs / CASES[name].same), "--overwrite"]
    assert "is an input, and inputs are never overwritten" in refused(capsys, argv)
    assert contents(inputs) == before


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.taken is not None])
def test_output_that_is_there_is_refused(name, inputs, tmp_path, capsys):
    out = tmp_path / CASES[name].out
    taken = out / CASES[name].taken
    taken.parent.mkdir(exist_ok=True)
    taken.write_text("mine")
    assert "already: choose another output, or pass --overwrite." in refused(capsys, command(name, inputs, out))
    assert taken.read_text() == "mine"
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("name", CASES)
def test_output_that_cannot_be_written_is_refused_before_the_work(name, inputs, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    error = refused(capsys, command(name, inputs, tmp_path / "file" / CASES[name].out))
    assert "cannot write" in error
    assert "file is no folder. Choose another output." in error


@pytest.mark.parametrize("name", CASES)
def test_output_that_another_run_is_writing_is_refused(name, inputs, tmp_path, capsys):
    out = tmp_path / CASES[name].out
    with ExitStack() as held:
        held.enter_context(claim_files(out) if out.suffix else hold_folder(out))
        error = refused(capsys, command(name, inputs, out))
    assert f"another run is writing {out} (process {os.getpid()} on " in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", RUN)
def test_full_disk_ends_in_one_line_and_leaves_nothing(name, inputs, tmp_path, capsys, monkeypatch):
    def full(path, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    monkeypatch.setattr(Path, "replace", full)
    out = tmp_path / CASES[name].out
    assert main(command(name, inputs, out)) == 1
    assert "No space left on device" in capsys.readouterr().err.splitlines()[-1]
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("name", RUN)
def test_signal_at_a_random_moment_leaves_nothing_half_written(name, number, inputs, tmp_path, capsys):
    out = tmp_path / "new" / CASES[name].out
    before = signal.signal(number, lambda *_: None)  # it may come after the end
    moment = float(np.random.default_rng([number, len(name)]).uniform(0, 0.4))
    timer = threading.Timer(moment, os.kill, (os.getpid(), number))
    try:
        timer.start()
        code = main(command(name, inputs, out))
        timer.join()
    finally:
        signal.signal(number, before)
    assert code in (0, 128 + number)
    assert "Traceback" not in capsys.readouterr().err
    assert leftovers(tmp_path) == []
    assert main([*command(name, inputs, out), *([] if name == "shard" else ["--overwrite"])]) == 0


@pytest.mark.parametrize("name", RUN)
def test_closed_output_stops_nothing(name, inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert main(command(name, inputs, tmp_path / CASES[name].out)) == 0
    assert (tmp_path / CASES[name].out).exists()


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
