"""Hatchling's hook that builds the native backend into a wheel or an editable install, where there is a compiler.

Without one the package is the same but for the library: the wheel is then for every platform. The environment variable
``SIAMMAE_BUILD_NATIVE=0`` leaves the library out on purpose; ``CXX`` names a compiler. Never imported by the package.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = "siammae/kernels/native"
LIBRARY = "libsiammae_native.so"
ENVIRONMENT = "SIAMMAE_BUILD_NATIVE"
# No -march=native: the wheel may go to another machine, which picks its instruction set when it runs.
FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fno-fast-math", "-ffp-contract=fast", "-pthread"]
LEVELS = {
    "portable": [],
    "avx2": ["-mavx2", "-mfma"],
    "avx512": ["-mavx512f", "-mfma"],
    "avx512vnni": ["-mavx512f", "-mavx512vnni", "-mfma"],
}
ATTENTION_LEVELS = {
    "avx2": LEVELS["avx2"],
    "avx512": LEVELS["avx512"],
}
BFLOAT16 = {"avx512bf16": ["-mavx512f", "-mavx512bf16", "-mfma"]}  # of attention, where the compiler knows it


class NativeBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Adds the library to what hatchling packs."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the library before a wheel or an editable install is put together."""
        if self.target_name != "wheel":
            return
        if reason := build(Path(self.root, FOLDER)):
            self.app.display_warning(f"siammae without its native kernels: {reason}")
            return
        build_data["artifacts"].append(f"/{FOLDER}/{LIBRARY}")  # ignored by git, and so by hatchling unless named
        build_data["pure_python"] = False
        build_data["tag"] = platform_tag()  # any Python 3: the library knows nothing of Python


def platform_tag() -> str:
    """Return the tag of a wheel for any Python 3 on this platform."""
    return "py3-none-" + sysconfig.get_platform().replace("-", "_").replace(".", "_")


def build(folder: Path) -> str | None:
    """Compile the library into a folder of sources; return None, or the reason why there is none now."""
    library = folder / LIBRARY
    library.unlink(missing_ok=True)  # one of an earlier version must not be taken for this one's
    if os.environ.get(ENVIRONMENT) == "0":
        return f"{ENVIRONMENT} is 0"
    if sys.platform == "win32":
        return "they are not made for Windows"
    compilers = find_compilers()
    if not compilers:
        return "no C++ compiler was found (CXX, c++, g++, clang++)"
    reason = None
    for compiler in compilers:
        try:
            _compile(compiler, folder, library)
        except (OSError, subprocess.CalledProcessError) as error:
            output = getattr(error, "stderr", None) or str(error)
            reason = reason or f"{shlex.join(compiler)} failed: {output.strip()[-2000:]}"
        else:
            return None
    return reason


def find_compilers() -> list[list[str]]:
    """Return the commands to try: what CXX says and nothing else, or the usual names that exist."""
    if named := shlex.split(os.environ.get("CXX", "")):
        return [named] if shutil.which(named[0]) else []
    return [[name] for name in ("c++", "g++", "clang++") if shutil.which(name)]


def _compile(compiler: list[str], folder: Path, library: Path) -> None:
    x86 = _run([*compiler, "-dumpmachine"]).startswith("x86_64")
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        objects = []
        tiles = LEVELS if x86 else {"portable": LEVELS["portable"]}
        bfloat16 = BFLOAT16 if x86 and _knows(compiler, "-mavx512bf16") else {}
        attention = {**ATTENTION_LEVELS, **bfloat16} if x86 else {}
        for source, levels in (("tile", tiles), ("attention", attention)):
            for level, flags in levels.items():
                objects.append(f"{temporary}/{source}-{level}.o")
                named = [*FLAGS, *flags, f"-DSIAMMAE_LEVEL={level}", "-c", str(folder / f"{source}.cpp")]
                _run([*compiler, *named, "-o", objects[-1]])
        built = f"{temporary}/{LIBRARY}"
        with_bfloat16 = f"-DSIAMMAE_WITH_BFLOAT16={len(bfloat16)}"
        _run([*compiler, *FLAGS, with_bfloat16, "-shared", str(folder / "library.cpp"), *objects, "-ldl", "-o", built])
        Path(built).replace(library)


def _knows(compiler: list[str], flag: str) -> bool:
    """Tell whether a compiler takes a flag; GCC knows AVX512-BF16 since version 10."""
    try:
        _run([*compiler, flag, "-E", "-x", "c++", os.devnull])
    except subprocess.CalledProcessError:
        return False
    return True


def _run(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, errors="replace").stdout
