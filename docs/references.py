"""Check that every name and path of this program that pages and docstrings mention in backticks exists.

`make docs` reports what this finds as warnings, which are errors there. What the reader is about to create stands in
double backticks, which are not checked. This module reads source files, and imports only `configs`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from typing import get_type_hints

from configs.profiles import PROFILES
from configs.schema import RunConfig

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("configs", "cot_data", "env", "policy", "rewards", "rl")
# Not looked at: the log and the changelog speak of what was, too.
PAGES = ("README.md", "CONTRIBUTING.md", "docs")
# Files of a run or of a checkpoint, which look like dotted names.
FILES = ("policy.json", "policy.safetensors")

CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
DOTTED = re.compile(rf"(?:{'|'.join(PACKAGES)})(?:\.\w+)+")
PATH = re.compile(rf"(?:{'|'.join((*PACKAGES, 'tests', 'docs'))})(?:/[\w.-]+)+/?")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def find_dead_references(root: Path = ROOT) -> list[str]:
    """Return a sentence for every mention of a module, attribute, config key or path that does not exist."""
    found = []
    for where, text in [*pages(root), *docstrings(root)]:
        for code in CODE.findall(text):
            if DOTTED.fullmatch(code) and not is_name(root, code):
                found.append(f"{where}: `{code}` is no module, attribute or config key of this program")
            elif PATH.fullmatch(code) and not (root / code).exists():
                found.append(f"{where}: `{code}` is no path of this program")
    return found


def pages(root: Path) -> Iterator[tuple[str, str]]:
    """Yield (file, text without fenced blocks) of every page."""
    for name in PAGES:
        path = root / name
        for file in sorted(path.rglob("*.md")) if path.is_dir() else [path]:
            if file.is_file():
                yield str(file.relative_to(root)), FENCE.sub("", file.read_text())


def docstrings(root: Path) -> Iterator[tuple[str, str]]:
    """Yield (file:line, text) of every docstring, and of every sentence under a field."""
    for package in PACKAGES:
        for file in sorted((root / package).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text())):
                match node:
                    case ast.Expr(value=ast.Constant(value=str(text))):
                        yield f"{file.relative_to(root)}:{node.lineno}", text


def is_name(root: Path, name: str) -> bool:
    """Whether a dotted name is a module, a name in a module, a member of a class there, or a config key."""
    if name in FILES or is_config_key(name):
        return True
    parts = name.split(".")
    path, rest = root, list(parts)
    while rest and (path / rest[0]).is_dir():
        path /= rest.pop(0)
    if rest and (path / f"{rest[0]}.py").is_file():
        names = names_in(path / f"{rest.pop(0)}.py")
    elif (path / "__init__.py").is_file():
        names = names_in(path / "__init__.py")
    else:
        return not rest
    if not rest:
        return True
    return rest[0] in names and (len(rest) == 1 or not names[rest[0]] or rest[1] in names[rest[0]])


@cache
def names_in(file: Path) -> dict[str, frozenset[str]]:
    """Return the names that a module defines or imports, each with the members of the class of that name."""
    found: dict[str, frozenset[str]] = {}
    for node in ast.parse(file.read_text()).body:
        for name in _defined(node):
            found[name] = frozenset(_members(node))
    return found


def _defined(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [alias.asname or alias.name for alias in node.names]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)]


def _members(node: ast.stmt) -> list[str]:
    return [name for each in node.body for name in _defined(each)] if isinstance(node, ast.ClassDef) else []


def is_config_key(name: str) -> bool:
    """Whether `name` is a key of a run's config (`grpo.lr`), or the weight of a reward (`rewards.format`)."""
    section: object = RunConfig
    first, *rest = name.split(".")
    if first == "rewards":
        return len(rest) == 1 and any(rest[0] in weights for weights in PROFILES.values())
    for part in (first, *rest):
        hints = get_type_hints(section) if isinstance(section, type) and is_dataclass(section) else {}
        if part not in hints:
            return False
        section = hints[part]
    return True
