"""The build hook: a library where there is a compiler, a package without it where there is none."""

import ctypes
import shutil
from pathlib import Path

import pytest

from siammae.kernels.native import build as native_build
from siammae.kernels.native import library as native_library

SOURCES = Path(native_build.__file__).parent


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A copy of the sources, with the library of an earlier version beside them."""
    for name in (native_build.ENVIRONMENT, "CXX"):
        monkeypatch.delenv(name, raising=False)
    target = tmp_path / native_build.FOLDER
    target.mkdir(parents=True)
    for pattern in ("*.cpp", "*.h"):
        for source in SOURCES.glob(pattern):
            shutil.copy(source, target)
    (target / native_build.LIBRARY).write_bytes(b"of an earlier version")
    return target


class Screen:
    def __init__(self):
        self.warnings = []

    def display_warning(self, text):
        self.warnings.append(text)


def hook(folder, target="wheel"):
    screen = Screen()
    made = native_build.NativeBuildHook(str(folder.parents[2]), {}, None, None, str(folder), target)
    made._NativeBuildHook__app = None
    made._BuildHookInterface__app = screen
    return made, screen


def names(folder):
    return {path.name for path in folder.iterdir()}


@pytest.mark.skipif(not native_build.find_compilers(), reason="no C++ compiler")
def test_hook_with_a_compiler_adds_the_library_and_the_platform(folder):
    before = names(folder)
    build_data = {"artifacts": []}
    made, screen = hook(folder)
    made.initialize("standard", build_data)
    assert screen.warnings == []
    assert build_data["artifacts"] == ["/siammae/kernels/native/libsiammae_native.so"]
    assert build_data["pure_python"] is False
    assert build_data["tag"].startswith("py3-none-")
    assert names(folder) == before
    library = ctypes.CDLL(str(folder / native_build.LIBRARY))
    assert library.siammae_native_abi() == native_library._ABI
    assert library.siammae_native_levels() in (1, 4)


def test_hook_without_a_compiler_leaves_a_package_for_every_platform(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    build_data = {"artifacts": []}
    made, screen = hook(folder)
    made.initialize("standard", build_data)
    assert build_data == {"artifacts": []}
    assert "no C++ compiler was found" in screen.warnings[0]
    assert native_build.LIBRARY not in names(folder)


def test_hook_leaves_source_distributions_alone(folder):
    build_data = {"artifacts": []}
    made, screen = hook(folder, target="sdist")
    made.initialize("standard", build_data)
    assert build_data == {"artifacts": []}
    assert screen.warnings == []
    assert native_build.LIBRARY in names(folder)


def test_build_when_switched_off_removes_an_old_library(folder, monkeypatch):
    monkeypatch.setenv(native_build.ENVIRONMENT, "0")
    assert native_build.build(folder) == "SIAMMAE_BUILD_NATIVE is 0"
    assert native_build.LIBRARY not in names(folder)


def test_build_on_windows_says_that_there_is_none(folder, monkeypatch):
    monkeypatch.setattr(native_build.sys, "platform", "win32")
    assert "Windows" in native_build.build(folder)


def test_build_takes_the_compiler_that_cxx_names_and_no_other(folder, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler -m64")
    assert native_build.find_compilers() == []
    monkeypatch.setenv("CXX", "false --really")
    assert native_build.find_compilers() == [["false", "--really"]]
    assert "false --really failed" in native_build.build(folder)
    assert native_build.LIBRARY not in names(folder)


def test_platform_tag_has_no_character_that_a_file_name_may_not_have(monkeypatch):
    monkeypatch.setattr(native_build.sysconfig, "get_platform", lambda: "macosx-11.0-arm64")
    assert native_build.platform_tag() == "py3-none-macosx_11_0_arm64"
