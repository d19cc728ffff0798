"""Fetch a dozen openly licensed photographs and a video from packages, and prepare them for pretraining.

``python benchmarks/fetch_open_media.py OUT`` writes them to OUT, with ``clips.txt`` for ``siammae pretrain`` and
``SOURCES.md``, which names authors and licences. ``apt-get`` (Debian, Ubuntu) and ``pip`` download; run again, it
fetches what is missing. It keeps 2.5 MB of the 120 that are downloaded.

Left out are wallpapers that are share-alike or no photographs, and all of OpenCV's samples but one video: vtest.avi is
a scene of PETS 2009, whose terms the package does not state, Megamind.avi is a film, and lena.jpg, messi5.jpg and
others are of unclear origin.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from PIL import Image

SHORT_SIDE, QUALITY = 512, 92  # of photographs
SOURCES, CLIPS = "SOURCES.md", "clips.txt"
_HEAD = f"""# Sources

Photographs were shrunk to a short side of {SHORT_SIDE} pixels where theirs was longer, and saved anew; videos are as
they were. Who passes them on must name the authors. Licences: https://creativecommons.org/licenses/by/4.0/ (CC-BY-4.0),
https://creativecommons.org/licenses/by/2.0/ (CC-BY-2.0), https://creativecommons.org/publicdomain/zero/1.0/ (CC0-1.0);
the others lie in their packages.

| file | title | author | licence | package and version | sha256 of the original |
| --- | --- | --- | --- | --- | --- |
"""


class MediaError(RuntimeError):
    """A package cannot be fetched, or does not hold what it should."""


class Medium(NamedTuple):
    """A photograph or a video; title, author and licence as its package states them."""

    path: str  # in the package
    title: str
    author: str
    licence: str
    package: str
    sha256: str  # of the file in the package

    @property
    def file(self) -> str:
        """Its name in OUT."""
        return PurePosixPath(self.path).name


_WALLPAPERS, _BACKGROUNDS = "lomiri-wallpapers-16.04", "usr/share/backgrounds/"
MEDIA = (
    Medium(
        f"{_BACKGROUNDS}aitzgorri_by_Aitzol_Berasategi.jpg",
        "aitzgorri",
        "Aitzol Berasategi, 2018",
        "CC-BY-4.0",
        _WALLPAPERS,
        "66268e7b48f8854d36a28765fac6e23ec1aee251daa6da1f64715f201020ad36",
    ),
    Medium(
        f"{_BACKGROUNDS}friends_by_Aitzol_Berasategi.jpg",
        "friends",
        "Aitzol Berasategi, 2018",
        "CC-BY-4.0",
        _WALLPAPERS,
        "cc40e313c74e421edffe3403def413c16878ce14661cce7ec5915baeab35538d",
    ),
    Medium(
        f"{_BACKGROUNDS}life_by_Aitzol_Berasategi.jpg",
        "life",
        "Aitzol Berasategi, 2018",
        "CC-BY-4.0",
        _WALLPAPERS,
        "4c119350ead80201fe256850c3d316309ddfb4bdf10b235ce982dcde0c667c05",
    ),
    Medium(
        f"{_BACKGROUNDS}picosdeeuropa_by_Aitzol_Berasategi.jpg",
        "picosdeeuropa",
        "Aitzol Berasategi, 2018",
        "CC-BY-4.0",
        _WALLPAPERS,
        "414d0072b2f6f2c555deafeaef6e45c4fed6fa9ad26eba6560ca8803959cf97a",
    ),
    Medium(
        f"{_BACKGROUNDS}sunset_by_Aitzol_Berasategi.jpg",
        "sunset",
        "Aitzol Berasategi, 2018",
        "CC-BY-4.0",
        _WALLPAPERS,
        "474dab6a4b9f94dc76c29dfe30e9f5db4af0fd2e33fe5d695f8152b371efca18",
    ),
    Medium(
        f"{_BACKGROUNDS}Picture_0B_by_freespace.jpg",
        "Picture_0B",
        'Trevor "Freespace", 2018',
        "CC-BY-4.0",
        _WALLPAPERS,
        "c8c0ab18e48d9e0419fe42881112137f3afafc27dfddc29ec3a6d54c56d225ad",
    ),
    Medium(
        f"{_BACKGROUNDS}Picture_1A_by_freespace.jpg",
        "Picture_1A",
        'Trevor "Freespace", 2018',
        "CC-BY-4.0",
        _WALLPAPERS,
        "89e86af38d04daaef975665dc2127e9fa76f0fd68f4eea105a2d0ae3390b010b",
    ),
    Medium(
        f"{_BACKGROUNDS}seeding_by_Clements_Engelhardt.jpg",
        "seeding",
        "Clemens Engelhardt, 2018",
        "CC0-1.0",
        _WALLPAPERS,
        "a5634d1ab5e41a3568e92d4a894a500c92b891f9ff734e50bd224d6e185a605f",
    ),
    Medium(
        f"{_BACKGROUNDS}Wine_by_Jakkub_Mede.jpg",
        "Wine",
        "Jakub Mede, 2018",
        "CC-BY-4.0",
        _WALLPAPERS,
        "d2e96e6d4da40dd804b3d0ce295e94de04a2d7d9b6785d42cd9d92ba58bced74",
    ),
    Medium(
        "sklearn/datasets/images/china.jpg",
        "china.jpg",
        "danielbuechele",
        "CC-BY-2.0",
        "scikit-learn",
        "8378025ad2519d649d02e32bd98990db4ab572357d9f09841c2fbfbb4fefad29",
    ),
    Medium(
        "sklearn/datasets/images/flower.jpg",
        "flower.jpg",
        "danielbuechele by the package's words, vultilion by its links",
        "CC-BY-2.0",
        "scikit-learn",
        "a77f6ec41e353afdf8bdff2ea981b2955535d8d83294f8cfa49cf4e423dd5638",
    ),
    Medium(
        "usr/share/doc/opencv-doc/examples/data/tree.avi",
        "tree.avi",
        "Intel Corporation and other contributors to OpenCV",
        "Apache-2.0 AND BSD-3-Clause",
        "opencv-doc",
        "4666099d0f704e310047b2f0a5ec9f936cb76a7271de9a2e70a0c57f82ac82dc",
    ),
)


def fetch_deb(package: str, folder: Path) -> str:
    """Unpack a Debian package of this machine's release into ``folder/files``, and return its version."""
    advice = "Run apt-get update first; where the release has no such package, only the other packages can be had"
    _run(["apt-get", "download", package], folder, advice)
    archive = next(folder.glob("*.deb"))
    _run(["dpkg-deb", "-x", str(archive), "files"], folder, "Run again")
    return _run(["dpkg-deb", "-f", str(archive), "Version"], folder, "Run again").strip()


def fetch_wheel(package: str, folder: Path) -> str:
    """Unpack a wheel for this Python into ``folder/files``, and return its version."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", package]
    _run(command, folder, "Where pip is missing, run python -m ensurepip; where the package is, see pip's settings")
    archive = next(folder.glob("*.whl"))
    with zipfile.ZipFile(archive) as wheel:
        wheel.extractall(folder / "files")  # drops .. and leading slashes
    return archive.name.split("-")[1]


PACKAGES: Mapping[str, Callable[[str, Path], str]] = {
    _WALLPAPERS: fetch_deb,
    "scikit-learn": fetch_wheel,
    "opencv-doc": fetch_deb,
}


def _run(command: Sequence[str], folder: Path, advice: str) -> str:
    try:
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    except FileNotFoundError as error:
        raise MediaError(
            f"there is no {command[0]} here, which comes with Debian and Ubuntu. Run this there."
        ) from error
    except subprocess.CalledProcessError as error:
        said = (error.stderr.strip() or error.stdout.strip() or f"status {error.returncode}").splitlines()[-1]
        raise MediaError(f"{' '.join(command)} failed: {said}. {advice}.") from error


def prepare(medium: Medium, unpacked: Path, out: Path) -> None:
    """Check a file of a package, and put it where training finds it.

    Args:
        medium: which one.
        unpacked: the package's files.
        out: gets ``medium.file``, whole or not at all.

    Raises:
        MediaError: the file is not there, or not the one whose licence was read.
    """
    original = (unpacked / medium.path).resolve()
    if not original.is_relative_to(unpacked.resolve()) or not original.is_file():
        raise MediaError(f"{medium.package} no longer holds {medium.path}. Take its entry out of MEDIA in {__file__}.")
    data = original.read_bytes()
    if (found := hashlib.sha256(data).hexdigest()) != medium.sha256:
        raise MediaError(
            f"{medium.path} of {medium.package} has sha256 {found}, not {medium.sha256}: it is not the file whose "
            f"licence was read. Read the new one's and put its sum into MEDIA in {__file__}, or take the entry out."
        )
    with _whole(out / medium.file) as part:
        if original.suffix == ".jpg":
            _shrink(Image.open(io.BytesIO(data)).convert("RGB")).save(part, "JPEG", quality=QUALITY)
        else:
            part.write_bytes(data)


def _shrink(picture: Image.Image) -> Image.Image:
    scale = min(1.0, SHORT_SIDE / min(picture.size))
    width, height = (round(side * scale) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """Give a temporary name, which becomes ``path`` when all is written."""
    part = path.with_name(f"{path.name}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def fetch_media(out: Path) -> list[str]:
    """Fetch what is missing in a folder.

    Args:
        out: the folder, which need not be there yet.

    Returns:
        What went wrong, package by package; what came before is kept and listed.
    """
    out.mkdir(parents=True, exist_ok=True)
    versions, problems = _read_versions(out), list[str]()
    for package, fetch in PACKAGES.items():
        missing = [medium for medium in MEDIA if medium.package == package and medium.file not in versions]
        try:
            with tempfile.TemporaryDirectory() as folder:
                version = fetch(package, Path(folder)) if missing else ""
                for medium in missing:
                    prepare(medium, Path(folder, "files"), out)
                    versions[medium.file] = version
        except MediaError as error:
            problems.append(str(error))
        _write_lists(out, versions)
    return problems


def _read_versions(out: Path) -> dict[str, str]:
    """Return the package's version by file, of the files that are there as they should be."""
    listed = (out / SOURCES).read_text(encoding="utf-8").splitlines() if (out / SOURCES).is_file() else []
    rows = [[cell.strip() for cell in line.split("|")] for line in listed if line.count("|") == 7]
    came = {(row[1], row[6]): row[5].split()[-1] for row in rows if row[5]}
    return {
        one.file: came[one.file, one.sha256]
        for one in MEDIA
        if (one.file, one.sha256) in came and (out / one.file).is_file()
    }


def _write_lists(out: Path, versions: Mapping[str, str]) -> None:
    rows, names = "", ""
    for one in (medium for medium in MEDIA if medium.file in versions):
        package = f"{one.package} {versions[one.file]}"
        rows += f"| {one.file} | {one.title} | {one.author} | {one.licence} | {package} | {one.sha256} |\n"
        names += f"{one.file}\n"
    for name, text in ((SOURCES, _HEAD + rows), (CLIPS, names)):
        with _whole(out / name) as part:
            part.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", metavar="OUT", type=Path, help="folder for photographs, video, clips.txt and SOURCES.md")
    out = parser.parse_args().out
    problems = fetch_media(out)
    print(
        f"{out} holds {len(_read_versions(out))} of {len(MEDIA)} photographs and videos; {SOURCES} says whose they are."
    )
    if problems:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()
