import re
from importlib.metadata import version
from pathlib import Path

import siammae

CHANGELOG = (Path(__file__).parent.parent / "CHANGELOG.md").read_text()


def test_changelog_top_version_equals_the_package_version():
    assert re.findall(r"^## \[(\d+\.\d+\.\d+)\]", CHANGELOG, re.MULTILINE)[0] == siammae.__version__


def test_changelog_top_release_says_what_numbers_changed():
    top = CHANGELOG.split("\n## ")[1]
    assert "### Numerics" in top


def test_installed_version_equals_the_package_version():
    assert version("siammae") == siammae.__version__
