"""Settings of the site of documents and of the Python interface. `scripts/docs` builds it.

The source of the site is the whole checkout, so that links between documents lead to the same places as in the
repository. Nothing is fetched from a network.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from commands import reference

import spann

project = "spann"
version = release = spann.__version__
author = "the authors of spann"
root_doc = "docs/site/index"
include_patterns = ["*.md", "docs/**.md", "benchmarks/harness/README.md"]
exclude_patterns = ["build", "tests", "spann", "ext", ".venv", "**.egg-info"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 4
default_role = "code"
autodoc_typehints = "signature"
autodoc_type_aliases = {"Array": "numpy.ndarray", "Progress": "Progress"}
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
napoleon_google_docstring = False
smartquotes = False  # they would change --options
python_maximum_signature_line_length = 88

html_theme = "alabaster"
html_theme_options = {
    "description": "Nearest neighbours from disk",
    "page_width": "70rem",
    "body_max_width": "none",
    "sidebar_width": "15rem",
    "fixed_sidebar": True,
    "font_family": "system-ui, sans-serif",
    "head_font_family": "system-ui, sans-serif",
}
html_copy_source = False
html_show_sphinx = False


def setup(app: Any) -> None:
    """Writes the reference of the commands before the pages are read."""
    (Path(__file__).parent / "commands.md").write_text(reference(), encoding="utf-8")
