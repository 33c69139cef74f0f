"""Who may import whom: a module imports only lower floors or its own package; nothing imports an entry point."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = {"configs": 0, "env": 1, "rewards": 2, "policy": 2, "cot_data": 3, "rl": 4}


def modules() -> dict[str, ast.Module]:
    """Every module of the program by dotted name; a package stands under its own name."""
    files = [file for package in FLOORS for file in sorted((ROOT / package).rglob("*.py"))]
    return {dotted(file): ast.parse(file.read_text(), filename=str(file)) for file in files}


def dotted(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import, inside functions too; `from a import b` gives both a and a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import; write the package's name"
            yield node.lineno, node.module or ""
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


def is_entry_point(tree: ast.Module) -> bool:
    """Whether the module has an `if __name__ == "__main__"` at its top level."""
    return any(isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'" for node in tree.body)


def faults(trees: dict[str, ast.Module]) -> list[str]:
    """A sentence for every import that breaks a rule."""
    entry_points = {name for name, tree in trees.items() if is_entry_point(tree)}
    found = []
    for name, tree in trees.items():
        package = name.split(".")[0]
        for line, target in imports(tree):
            top = target.split(".")[0]
            if target in entry_points:
                found.append(f"{name}:{line} imports the entry point {target}")
            is_below = top == package or top not in FLOORS or FLOORS[top] < FLOORS[package]
            if name not in entry_points and not is_below:
                found.append(f"{name}:{line} imports {target}, which is not below {package}")
            if top == "tests":
                found.append(f"{name}:{line} imports {target}")
    return found


def test_modules_import_only_what_lies_below():
    assert faults(modules()) == []


def test_every_package_has_a_floor():
    packages = {file.parent.name for file in ROOT.glob("*/__init__.py")} - {"tests"}
    assert packages == set(FLOORS)


@pytest.mark.parametrize(
    ("name", "source", "expected"),
    [
        ("env.x", "from configs.schema import EnvConfig", 0),
        ("env.x", "import env.types", 0),
        ("configs.x", "def f():\n    import env.types", 1),
        ("rewards.x", "from policy import model", 2),  # the package and the module in it
        ("policy.x", "import rewards", 1),
        ("env.x", "import rl.main", 2),  # not below, and an entry point
        ("rl.x", "from rl.main import run", 1),
        ("env.x", "import policy\nif __name__ == '__main__':\n    pass", 0),
        ("rl.x", "from tests.helpers import make", 2),
    ],
)
def test_the_rules_see_planted_faults(name: str, source: str, expected: int):
    main = ast.parse("if __name__ == '__main__':\n    pass")
    assert len(faults({"rl.main": main, name: ast.parse(source)})) == expected
