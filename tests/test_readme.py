"""README and the other pages at the root: short, their links lead somewhere, and the tree is the one that is there."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PACKAGES = ("configs", "env", "rewards", "policy", "cot_data", "rl")
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and MyST make them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead_links(page: Path) -> list[str]:
    """Return the links of a page that lead to no file or heading of this tree; those to other sites are not tried."""
    dead = []
    for link in LINK.findall(FENCE.sub("", page.read_text())):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if "://" in link:
            continue
        if not target.exists() or (anchor and anchor not in anchors(target.read_text())):
            dead.append(link)
    return dead


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_somewhere(name: str):
    assert dead_links(ROOT / name) == []


def test_dead_links_are_seen(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text("# A b\n[x](#a-b) [y](#c) [z](gone.md) [w](https://example.org) [v](page.md#a-b)")
    assert dead_links(page) == ["#c", "gone.md"]


def test_readme_is_short_and_shows_every_folder():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 120
    (tree,) = re.findall(r"## The tree\n\n```\n(.*?)```", text, re.DOTALL)
    shown, parent = [], ""
    for line in tree.splitlines():
        match = re.fullmatch(r"(  )?([a-z_]+)/ +\S.*", line)
        assert match, f"expected `folder/  what it is`, found {line!r}"
        indent, name = match.groups()
        parent = parent if indent else name
        shown.append(f"{parent}/{name}" if indent else name)
    assert [name for name in shown if not (ROOT / name).is_dir()] == []
    folders = [path for package in PACKAGES for path in sorted((ROOT / package).iterdir()) if path.is_dir()]
    packages = [str(path.relative_to(ROOT)) for path in folders if (path / "__init__.py").is_file()]
    nested = {"env/tools"}  # a line of its parent speaks of it
    assert set(packages) - set(shown) - nested == set()


def test_the_citation_names_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]
    assert citation["cff-version"] == "1.2.0" and citation["authors"] and citation["title"]
