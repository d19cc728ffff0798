"""The public names are one list, ``siammae/__init__.pyi``: each loads, and says what it is."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import siammae

PUBLIC = sorted(set(siammae.__all__) - {"__version__"})


def test_public_names_are_those_of_the_stub_and_nothing_else_is_shown():
    tree = ast.parse(Path(siammae.__file__).with_suffix(".pyi").read_text())
    listed = [alias.asname for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted(listed) == PUBLIC
    assert dir(siammae) == siammae.__all__


@pytest.mark.parametrize("name", PUBLIC)
def test_public_name_is_importable_and_documented(name):
    thing = getattr(siammae, name)
    assert thing.__module__.startswith("siammae.")
    assert inspect.getdoc(thing)


def test_unknown_name_raises_attribute_error():
    with pytest.raises(AttributeError, match="No siammae attribute propagate_mask"):
        siammae.propagate_mask  # noqa: B018


def test_import_loads_nothing_heavy_and_command_help_neither():
    code = (
        "import sys, siammae, siammae.cli\n"
        "siammae.cli._parser()\n"
        "print([name for name in ('torch', 'timm', 'cv2', 'triton', 'huggingface_hub') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
