"""Settings of the documentation site; `make docs` builds it into build/docs, and every warning is an error."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.util import logging

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from docs.docstrings import to_rst  # noqa: E402
from docs.references import PACKAGES, find_dead_references  # noqa: E402 - needs the path above

project = "VideoSEG-RL"
author = "VideoSEG-RL contributors"
version = release = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]
templates_path = ["_templates"]
exclude_patterns = ["examples"]

html_show_copyright = False
html_theme = "furo"
html_title = project

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# The reference is made from the docstrings. Libraries that take long to import are replaced by empty stand-ins, which
# makes the build ten times faster: their own documentation is not part of this site.
autosummary_generate = True
autodoc_mock_imports = ["accelerate", "datasets", "hydra", "nixl", "peft", "ray", "safetensors", "sam2", "tokenizers"]
autodoc_mock_imports += ["torchvision", "transformers", "trl", "vllm"]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False

# A link that is written out has to lead to something of this program; names of other libraries are not looked up.
# `docs.references` checks the names that stand in backticks, whether or not the reference has a page for them.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", rf"(?!({'|'.join(PACKAGES)})\.).*"),
    (r"py:(obj|class)", r".*\.(_\w+|[A-Z]|[A-Z_]+)"),
]


def write_docstring_as_rst(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Turn a docstring into reStructuredText in place, before napoleon reads its sections."""
    lines[:] = to_rst(lines)


def check_references(app: Sphinx) -> None:
    """Warn of every name or path in backticks that does not exist."""
    for sentence in find_dead_references(ROOT):
        logging.getLogger(__name__).warning(sentence)


def setup(app: Sphinx) -> None:
    """Register the two steps above."""
    app.connect("builder-inited", check_references)
    app.connect("autodoc-process-docstring", write_docstring_as_rst, priority=400)
