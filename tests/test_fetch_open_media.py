"""The script that fetches open media, without a network: packages are made up."""

import hashlib
import importlib.util
import os
import shutil
import sys
import zipfile
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from PIL import Image

from siammae.clips.listing import find_clips

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("fetch_open_media", ROOT / "benchmarks" / "fetch_open_media.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def package(tmp_path):
    """The files of a package: two photographs, one of them small, and a video."""
    folder = tmp_path / "package"
    (folder / "usr").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, size in (("large.jpg", (600, 900, 3)), ("small.jpg", (90, 60, 3))):
        Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(folder / "usr" / name)
    (folder / "usr" / "film.avi").write_bytes(b"moving pictures")
    return folder


@pytest.fixture
def media(script, package, monkeypatch):
    """Let the script fetch that package; returns how often it did."""
    entries = tuple(
        script.Medium(f"usr/{name}", name[:-4], "A. Author", "CC0-1.0", "pictures", sha256(package / "usr" / name))
        for name in ("large.jpg", "film.avi", "small.jpg")
    )
    fetched = []

    def fetch(name, folder):
        fetched.append(name)
        shutil.copytree(package, folder / "files")
        return "1.2-3"

    monkeypatch.setattr(script, "MEDIA", entries)
    monkeypatch.setattr(script, "PACKAGES", {"pictures": fetch})
    return fetched


FETCHED = ["SOURCES.md", "clips.txt", "film.avi", "large.jpg", "small.jpg"]


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def state(folder):
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


def test_entries_are_openly_licensed_and_their_names_differ(script):
    assert len({one.file for one in script.MEDIA}) == len(script.MEDIA)
    for one in script.MEDIA:
        assert one.package in script.PACKAGES
        assert one.licence in ("CC-BY-4.0", "CC-BY-2.0", "CC0-1.0", "Apache-2.0 AND BSD-3-Clause")
        assert len(bytes.fromhex(one.sha256)) == 32
        assert not PurePosixPath(one.path).is_absolute()
        assert all("|" not in text for text in one)


def test_fetch_media_shrinks_photographs_copies_videos_and_lists_both(script, package, media, tmp_path):
    out = tmp_path / "new" / "out"
    assert script.fetch_media(out) == []
    assert sorted(path.name for path in out.iterdir()) == FETCHED
    with Image.open(out / "large.jpg") as large, Image.open(out / "small.jpg") as small:
        assert (large.format, large.size, small.size) == ("JPEG", (768, 512), (60, 90))
    assert (out / "film.avi").read_bytes() == b"moving pictures"
    clips = find_clips(out / "clips.txt")
    assert [(clip.name, clip.is_image) for clip in clips] == [
        ("large.jpg", True),
        ("film.avi", False),
        ("small.jpg", True),
    ]
    row = f"| film.avi | film | A. Author | CC0-1.0 | pictures 1.2-3 | {sha256(package / 'usr' / 'film.avi')} |"
    assert row in (out / "SOURCES.md").read_text().splitlines()


def test_second_run_keeps_what_is_there_and_fetches_what_is_missing(script, media, tmp_path):
    script.fetch_media(tmp_path / "out")
    before = state(tmp_path / "out")
    assert script.fetch_media(tmp_path / "out") == []
    after = state(tmp_path / "out")
    assert media == ["pictures"]
    assert {name: content for name, (content, _) in after.items()} == {n: content for n, (content, _) in before.items()}
    assert all(after[name] == before[name] for name in ("large.jpg", "film.avi", "small.jpg"))
    (tmp_path / "out" / "film.avi").unlink()
    script.fetch_media(tmp_path / "out")
    assert media == ["pictures"] * 2
    assert state(tmp_path / "out")["large.jpg"] == before["large.jpg"]
    assert (tmp_path / "out" / "film.avi").is_file()


def test_changed_file_is_refused_and_those_before_it_are_kept(script, package, media, tmp_path):
    (package / "usr" / "film.avi").write_bytes(b"other pictures")
    (problem,) = script.fetch_media(tmp_path / "out")
    assert problem.startswith(f"usr/film.avi of pictures has sha256 {sha256(package / 'usr' / 'film.avi')}, not ")
    assert "Read the new one's and put its sum into MEDIA" in problem
    assert (tmp_path / "out" / "clips.txt").read_text() == "large.jpg\n"
    assert not (tmp_path / "out" / "film.avi").exists()


def test_file_that_has_gone_or_lies_outside_of_its_package_is_refused(script, package, media, tmp_path):
    (package / "usr" / "large.jpg").rename(tmp_path / "large.jpg")
    with pytest.raises(
        script.MediaError, match=r"pictures no longer holds usr/large\.jpg\. Take its entry out of MEDIA"
    ):
        script.prepare(script.MEDIA[0], package, tmp_path)
    (package / "usr" / "large.jpg").symlink_to(tmp_path / "large.jpg")
    with pytest.raises(script.MediaError, match=r"no longer holds usr/large\.jpg"):
        script.prepare(script.MEDIA[0], package, tmp_path / "out")


def test_interrupted_run_leaves_no_half_file_and_the_next_one_goes_on(script, media, tmp_path, monkeypatch):
    out = tmp_path / "out"

    def interrupted(picture, path, *_, **__):
        path.write_bytes(b"\xff\xd8 half a JPEG")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            script.fetch_media(out)
    assert list(out.iterdir()) == []
    (out / "large.jpg.part").write_bytes(b"as a killed run leaves it")
    assert script.fetch_media(out) == []
    assert sorted(path.name for path in out.iterdir()) == FETCHED


def test_fetch_wheel_unpacks_what_pip_saved_and_nothing_outside_of_it(script, tmp_path, monkeypatch):
    def run(command, folder, advice):
        assert command[:4] == [sys.executable, "-m", "pip", "download"]
        with zipfile.ZipFile(folder / "pictures-4.5-py3-none-any.whl", "w") as wheel:
            wheel.writestr("pictures/a.jpg", b"a")
            wheel.writestr("../../outside.jpg", b"b")

    monkeypatch.setattr(script, "_run", run)
    (tmp_path / "in" / "here").mkdir(parents=True)
    assert script.fetch_wheel("pictures", tmp_path / "in" / "here") == "4.5"
    assert (tmp_path / "in" / "here" / "files" / "pictures" / "a.jpg").read_bytes() == b"a"
    assert sorted(path.name for path in tmp_path.rglob("*.jpg")) == ["a.jpg", "outside.jpg"]
    assert (tmp_path / "in" / "here" / "files" / "outside.jpg").is_file()


def command(folder, name, lines):
    """Put a shell script in the place of a program."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{lines}\n")
    (folder / name).chmod(0o755)


def test_fetch_deb_downloads_unpacks_and_tells_the_version(script, tmp_path, monkeypatch):
    command(tmp_path / "bin", "apt-get", 'echo archive > "$2_7.deb"')
    command(tmp_path / "bin", "dpkg-deb", 'if [ $1 = -x ]; then mkdir "$3" && cp "$2" "$3/a.jpg"; else echo 7-1; fi')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "here").mkdir()
    assert script.fetch_deb("pictures", tmp_path / "here") == "7-1"
    assert (tmp_path / "here" / "files" / "a.jpg").read_text() == "archive\n"


def test_package_that_cannot_be_had_is_told_with_advice_and_the_others_are_fetched(
    script, media, tmp_path, monkeypatch
):
    monkeypatch.setattr(script, "PACKAGES", {"gone": script.fetch_deb, "none": script.fetch_wheel, **script.PACKAGES})
    entry = script.Medium("a.jpg", "a", "A. Author", "CC0-1.0", "gone", 64 * "0")
    monkeypatch.setattr(script, "MEDIA", (entry, entry._replace(path="b.jpg", package="none"), *script.MEDIA))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    command(tmp_path / "bin", "python", "echo No module named pip >&2; exit 1")
    command(tmp_path / "bin", "apt-get", "echo E: Unable to locate package gone >&2; exit 100")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    gone, none = script.fetch_media(tmp_path / "out")
    assert gone.startswith("apt-get download gone failed: E: Unable to locate package gone. Run apt-get update first")
    assert "none failed: No module named pip. Where pip is missing, run python -m ensurepip" in none
    assert len((tmp_path / "out" / "clips.txt").read_text().split()) == 3
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(script.MediaError, match="there is no apt-get here, which comes with Debian and Ubuntu"):
        script.fetch_deb("gone", tmp_path)


def test_main_ends_with_an_error_where_something_is_missing(script, package, media, tmp_path, monkeypatch, capsys):
    (package / "usr" / "small.jpg").unlink()
    monkeypatch.setattr(sys, "argv", ["fetch_open_media.py", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match=r"pictures no longer holds usr/small\.jpg"):
        script.main()
    assert "holds 2 of 3 photographs and videos" in capsys.readouterr().out
