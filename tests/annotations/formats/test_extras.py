import sys

import pytest

from siammae.annotations.formats.cvat import CVAT
from siammae.annotations.formats.deeplabcut_h5 import DEEPLABCUT_H5
from siammae.annotations.formats.format import Opening
from siammae.annotations.formats.jhmdb import JHMDB
from siammae.annotations.formats.rle import coco_tools
from siammae.annotations.formats.sleap import SLEAP


@pytest.mark.parametrize(
    ("package", "act", "message"),
    [
        ("pycocotools", lambda path: coco_tools(), r"pip install siammae\[formats\]"),
        ("defusedxml", lambda path: CVAT.read(path, Opening()), r"pip install siammae\[formats\]"),
        ("sleap_io", lambda path: SLEAP.read(path, Opening()), r"pip install siammae\[sleap\]"),
        ("tables", lambda path: DEEPLABCUT_H5.read(path, Opening()), r"pip install siammae\[deeplabcut\]"),
        ("scipy.io", lambda path: JHMDB.read(path, Opening()), r"pip install siammae\[eval\]"),
    ],
)
def test_format_without_its_package_says_what_to_install(tmp_path, monkeypatch, package, act, message):
    monkeypatch.setitem(sys.modules, package, None)
    path = tmp_path / "f"
    path.write_text("<annotations/>")
    with pytest.raises(ImportError, match=message):
        act(path)
