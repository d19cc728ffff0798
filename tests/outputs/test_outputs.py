"""Outputs: whole files, locks, what may be replaced, leftovers."""

import errno
import os
import subprocess
import sys

import pytest

from siammae.outputs import MARKER, claim_files, claim_folder, hold_folder, whole

MASKS = r"\d+\.png"


def test_whole_gives_the_file_its_name_at_the_end_and_leaves_nothing_after_an_error(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with whole(path) as part:
        part.write_text("one")
        assert not path.exists()
        assert part.name == "a.txt"
    assert path.read_text() == "one"
    with pytest.raises(TypeError), whole(path) as part:
        part.write_text(2)
    assert path.read_text() == "one"
    assert [entry.name for entry in path.parent.iterdir()] == ["a.txt"]


def test_whole_writes_through_a_symlink_and_refuses_what_is_no_file(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with whole(tmp_path / "link") as part:
        part.write_text("x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "x"
    os.mkfifo(tmp_path / "pipe")
    for path in ("/dev/null", tmp_path / "pipe"):
        with pytest.raises(ValueError, match="is a device, a pipe or a socket"), whole(path):
            pass
        with pytest.raises(ValueError, match="is a device, a pipe or a socket"), claim_files(path):
            pass


def test_whole_names_the_file_when_the_disk_is_full(tmp_path):
    with pytest.raises(OSError, match=r"No space left on device: '.*a\.txt'"), whole(tmp_path / "a.txt"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_whole_keeps_the_usual_mode_and_takes_the_longest_name(tmp_path):
    (tmp_path / "plain").write_text("")
    path = tmp_path / ("é" * 120 + ".txt")
    with claim_files(path), whole(path) as part:
        part.write_text("")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_outputs_that_are_inputs_are_refused_even_with_overwrite(tmp_path):
    source, folder = tmp_path / "a.csv", tmp_path / "frames"
    source.write_text("mine")
    folder.mkdir()
    (folder / "00000.png").write_text("mine")
    (tmp_path / "link.csv").symlink_to(source)
    for path, given in (
        (source, source),
        (tmp_path / "link.csv", source),
        (source, tmp_path / "link.csv"),
        (tmp_path / "frames" / ".." / "a.csv", str(source)),
        (folder / "00000.png", folder),
    ):
        refused = pytest.raises(ValueError, match="is an input, and inputs are never overwritten")
        with refused, claim_files(path, inputs=[None, "siammae-ti8", given], overwrite=True):
            pass
    for given in (folder, folder / "00000.png"):
        refused = pytest.raises(ValueError, match="is an input, and inputs are never overwritten")
        with refused, claim_folder(folder, MASKS, inputs=[given], overwrite=True):
            pass
    assert source.read_text() == (folder / "00000.png").read_text() == "mine"
    with claim_files(folder / "features.safetensors", inputs=[folder]):
        pass


def test_files_that_are_there_are_replaced_when_asked_for_only(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("old")
    refused = pytest.raises(ValueError, match=r"a\.csv is there already: choose another output, or allow that it is")
    with refused, claim_files(path):
        pass
    with claim_files(path, overwrite=True):
        pass
    with pytest.raises(ValueError, match="is a folder: it must be a file"), claim_files(tmp_path):
        pass
    with pytest.raises(ValueError, match="is the place of two outputs"), claim_files(path, path, overwrite=True):
        pass
    with pytest.raises(ValueError, match="is a file: it must be a folder"), claim_folder(path, MASKS):
        pass


def test_a_folder_is_cleared_of_what_siammae_wrote_and_of_nothing_else(tmp_path):
    out = tmp_path / "out"
    names = {"names": r"overlay\.mp4", "numbered": MASKS}
    with claim_folder(out, **names) as results:
        for name in ("00000.png", "00001.png", "overlay.mp4"):
            results.path(name).write_text("first run")
    (out / "notes.txt").write_text("mine")
    refused = pytest.raises(ValueError, match=r"out holds 00000\.png already: choose another output, or allow")
    with refused, claim_folder(out, **names):
        pass
    with claim_folder(out, **names, overwrite=True) as results:
        assert (out / "00001.png").exists()
        results.clear()
        results.path("00000.png").write_text("second run")
    assert sorted(path.name for path in out.iterdir()) == [MARKER, "00000.png", "notes.txt"]
    (out / "00099.png").write_text("mine")
    refused = pytest.raises(ValueError, match=r"holds 00099\.png, which siammae did not write")
    with refused, claim_folder(out, **names, overwrite=True):
        pass
    assert (out / "00099.png").read_text() == "mine"


def test_a_marker_that_leads_out_deletes_nothing(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "1.png").write_text("mine")
    (out / MARKER).write_text("../1.png\n/1.png\n")
    with claim_folder(out, r".*\.png", overwrite=True) as results:
        results.clear()
    assert (tmp_path / "1.png").exists()


def test_a_second_run_is_refused_and_says_who_is_writing(tmp_path):
    path, out = tmp_path / "new" / "a.csv", tmp_path / "new" / "out"
    with claim_files(path), hold_folder(out):
        for claim in (claim_files(path), hold_folder(out), claim_folder(out, MASKS)):
            refused = pytest.raises(BlockingIOError, match=rf"another run is writing .* \(process {os.getpid()} on ")
            with refused, claim:
                pass
    assert list(tmp_path.iterdir()) == []  # nothing came, so nothing stays
    with claim_files(path), hold_folder(out):
        pass


def test_outputs_that_cannot_be_written_are_refused_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    for claim in (claim_files(tmp_path / "file" / "a.csv"), claim_folder(tmp_path / "file" / "out", MASKS)):
        with (
            pytest.raises(OSError, match=r"cannot write .*file/.*: .*file is no folder\. Choose another output"),
            claim,
        ):
            pass


def test_leftovers_of_killed_runs_are_swept_and_those_of_running_ones_stay(tmp_path):
    code = "import sys, os; from siammae.outputs import *\nwith hold_folder(sys.argv[1]):\n"
    code += " with whole(sys.argv[1] + '/a.txt'): os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert len(left) == 2
    assert left[1] == f"{MARKER}.lock"
    running = tmp_path / f".b.txt.{os.getppid()}-abc-0.part"
    running.mkdir()
    (tmp_path / ".other.part").mkdir()
    elsewhere = tmp_path / left[0].replace(left[0].split("-")[1], "0")  # made on another machine
    elsewhere.mkdir()
    with whole(tmp_path / "a.txt") as part:
        assert sorted(path.name for path in tmp_path.glob(".a.txt*")) == sorted([elsewhere.name, part.parent.name])
        with whole(tmp_path / "a.txt") as other:
            assert part.parent.exists()  # of this process, in use
            other.write_text("")
        part.write_text("")
    with claim_files(tmp_path / "a.txt", overwrite=True):
        assert sorted(path.name for path in tmp_path.glob(".a.txt*")) == [".a.txt.lock"]
    with hold_folder(tmp_path):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([running.name, ".other.part", "a.txt"])


def test_results_in_folders_below_are_known_cleared_and_kept_like_others(tmp_path):
    names = r"labels/\d\.txt|names\.txt|deep/er/.*"
    with claim_folder(tmp_path, names) as results:
        for name in ("labels/1.txt", "labels/2.txt", "names.txt", "deep/er/a"):
            results.path(name).parent.mkdir(parents=True, exist_ok=True)
            results.path(name).write_text("first run")
        assert results.results() == ["deep/er/a", "labels/1.txt", "labels/2.txt", "names.txt"]
    (tmp_path / "labels" / "notes.md").write_text("mine")
    (tmp_path / "labels" / "3.txt").write_text("mine")
    with claim_folder(tmp_path, names, overwrite=True) as results:
        assert not results.wrote("labels/3.txt")
        results.clear()
    assert sorted(path.name for path in tmp_path.rglob("*")) == [MARKER, "3.txt", "labels", "notes.md"]
    with claim_folder(tmp_path, names, overwrite=True) as results:
        results.path("labels")  # what is in it is siammae's
        results.clear()
    assert sorted(path.name for path in tmp_path.rglob("*")) == [MARKER, "labels", "notes.md"]


def test_an_input_among_the_results_is_refused_however_deep_it_lies(tmp_path):
    (tmp_path / "model").mkdir()
    weights = tmp_path / "model" / "weights"
    weights.write_text("mine")
    for source in (weights, weights.parent):
        refused = pytest.raises(ValueError, match="is an input, and inputs are never overwritten")
        with refused, claim_folder(tmp_path, "model/.*", inputs=[source], overwrite=True):
            pass
    assert weights.read_text() == "mine"


@pytest.mark.parametrize("held", [hold_folder, claim_files])
def test_a_signal_while_cleaning_up_leaves_nothing_either(held, tmp_path, monkeypatch):
    from siammae.outputs import temporary

    remove = temporary.shutil.rmtree

    def interrupted(*arguments, **options):
        monkeypatch.setattr(temporary.shutil, "rmtree", remove)
        raise KeyboardInterrupt

    monkeypatch.setattr(temporary.shutil, "rmtree", interrupted)
    with pytest.raises(KeyboardInterrupt), held(tmp_path / "new"), whole(tmp_path / "other"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
