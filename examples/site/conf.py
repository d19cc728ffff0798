"""Configuration of the site; from the repository's root: ``sphinx-build -W -c examples/site . build/site``.

The source folder is the repository, so that the links of a guide hold here as they do where it is read as text.
"""

import os
import re
import sys
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

os.environ["COLUMNS"] = "100"  # of the help texts

sys.path.insert(0, str(Path(__file__).parent))

import siammae

project, author = "siammae", "the siammae authors"
copyright = f"{author}, Apache-2.0"
version = release = siammae.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "command_pages",
]
root_doc = "examples/site/index"
include_patterns = [
    "examples/*.md",
    "examples/data/README.md",
    "examples/site/**",
    "benchmarks/*.md",
    "siammae/weights/siammae-ti8/README.md",
    "CHANGELOG.md",
]
exclude_patterns = ["examples/README.md", "examples/site/root/**", "examples/site/templates/**"]
suppress_warnings = ["config.cache"]
nitpicky = False

html_theme = "furo"
html_title = f"siammae {release}"
html_extra_path = ["root"]
html_theme_options = {"source_directory": "", "navigation_with_keys": True}

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4

templates_path = ["templates"]
autosummary_generate = True
autosummary_imported_members = False
autosummary_ignore_module_all = False
autodoc_typehints = "signature"
# Short names in signatures; what they stand for is said of each argument.
autodoc_type_aliases = {
    name: name for name in ("Backend", "Dtype", "FrameSource", "Kernels", "MaskSource", "PathLike", "VideoSource")
}
python_use_unqualified_type_names = True
maximum_signature_line_length = 90
autodoc_member_order = "bysource"
napoleon_google_docstring, napoleon_numpy_docstring = True, False

sphinx_gallery_conf = {
    "examples_dirs": "examples/gallery",
    "gallery_dirs": "examples/site/generated/gallery",
    "backreferences_dir": "examples/site/generated/backreferences",
    "doc_module": ("siammae",),
    "filename_pattern": "",
    "ignore_pattern": "__",
    "abort_on_example_error": True,
    "show_memory": False,
    "write_computation_times": False,
    "min_reported_time": 30,
    "remove_config_comments": True,
    "download_all_examples": False,
    "within_subsection_order": "order.ReadingOrder",
}


def setup(app: Sphinx) -> None:
    """Write aliases in unions by their names alone, as everywhere else."""

    def shorten(
        _app: Sphinx, _what: str, _name: str, _obj: object, _options: object, *parts: str | None
    ) -> tuple[Any, ...]:
        return tuple(part and re.sub(r"TypeAliasForwardRef\('(\w+)'\)", r"\1", part) for part in parts)

    app.connect("autodoc-process-signature", shorten)
