"""Settings of the documentation site; `make docs` builds it into build/docs, and every warning is an error."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

project = "VideoSEG-RL"
author = "VideoSEG-RL contributors"
version = release = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]
templates_path = ["_templates"]
exclude_patterns = ["examples"]

html_theme = "furo"
html_title = project
html_static_path = ["_static"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# The reference is made from the docstrings. Engines that take long to import, or cannot be imported without a GPU, are
# replaced by empty stand-ins: their own documentation is not part of this site.
autosummary_generate = True
autodoc_mock_imports = ["nixl", "vllm"]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False

# Every reference to a name of this program has to exist. Names of other libraries are not looked up.
nitpicky = True
PACKAGES = ("configs", "cot_data", "env", "policy", "rewards", "rl")
nitpick_ignore_regex = [(r"py:.*", rf"(?!({'|'.join(PACKAGES)})\.).*")]

OUR_NAME = re.compile(rf"({'|'.join(PACKAGES)})(\.\w+)+")
CODE = re.compile(r"(?<![`:])`([^`]+)`(?!`)")


def write_docstring_as_rst(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Turn `code` of a docstring into a link where it names something of this program, else into literal text."""
    text = CODE.sub(_code, "\n".join(lines))
    lines[:] = text.split("\n")


def _code(match: re.Match[str]) -> str:
    text = match[1]
    return f":py:obj:`{text}`" if OUR_NAME.fullmatch(text) else f"``{text}``"


def setup(app: Sphinx) -> None:
    """Register the rewriting of docstrings."""
    app.connect("autodoc-process-docstring", write_docstring_as_rst, priority=400)
