"""Check who imports whom: a module imports lower floors or its own package, and nothing imports an entry point."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = {"configs": 0, "env": 1, "rewards": 2, "policy": 2, "cot_data": 3, "rl": 4}
# Inside a package: the floors of its folders and of the modules that lie in it directly.
INNER_FLOORS = {
    "rl": {
        "runtime": 0,
        "rollout": 1,
        "sft": 1,
        "benchmarks": 1,
        "families": 2,
        "learner": 3,
        "evaluation": 3,
        "report": 4,
    },
    "policy": {"checkpoint_io": 0, "segmenter": 0, "folder_kinds": 1, "vlm": 2, "sam": 2, "engines": 3, "videoseg": 4},
}
MAX_MODULES = 24  # in one folder


def modules() -> dict[str, ast.Module]:
    """Return every module of the program by dotted name; a package has its own name."""
    files = [file for package in FLOORS for file in sorted((ROOT / package).rglob("*.py"))]
    return {dotted(file): ast.parse(file.read_text(), filename=str(file)) for file in files}


def dotted(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of every import, inside functions too; `from a import b` gives both a and a.b."""
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
    """Return whether the module has an `if __name__ == "__main__"` at its top level."""
    return any(isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'" for node in tree.body)


def faults(trees: dict[str, ast.Module]) -> list[str]:
    """Return a sentence for every import that breaks a rule."""
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
            if name not in entry_points and not is_below_inside(name, target):
                found.append(f"{name}:{line} imports {target}, which is not below it in {package}")
    return found


def is_below_inside(name: str, target: str) -> bool:
    """Return whether `target` lies on a lower floor of the package than `name`, or in the same folder."""
    package, folder = [*name.split("."), ""][:2]
    other_package, other_folder = [*target.split("."), ""][:2]
    floors = INNER_FLOORS.get(package, {})
    if package != other_package or folder == other_folder or folder not in floors or other_folder not in floors:
        return True
    return floors[other_folder] < floors[folder]


def test_modules_import_only_what_lies_below():
    assert faults(modules()) == []


def test_every_package_and_every_folder_has_a_floor():
    packages = {file.parent.name for file in ROOT.glob("*/__init__.py")} - {"tests"}
    assert packages == set(FLOORS)
    entry_points = {name for name, tree in modules().items() if is_entry_point(tree)}
    for package, floors in INNER_FLOORS.items():
        names = {dotted(file) for file in (ROOT / package).glob("*.py")} - {package} - entry_points
        folders = {name.split(".")[1] for name in names}
        folders |= {file.parent.name for file in (ROOT / package).glob("*/__init__.py")}
        assert folders == set(floors)


def test_no_folder_is_crowded():
    folders = [folder for package in FLOORS for folder in [ROOT / package, *(ROOT / package).rglob("*/")]]
    counts = {str(folder.relative_to(ROOT)): len(list(folder.glob("*.py"))) for folder in folders}
    assert {name: count for name, count in counts.items() if count > MAX_MODULES} == {}


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
        ("rl.rollout.x", "import rl.runtime.journal", 0),
        ("rl.rollout.x", "import rl.sft.loop", 1),
        ("policy.sam.x", "import policy.vlm.load", 1),
    ],
)
def test_the_rules_see_planted_faults(name: str, source: str, expected: int):
    main = ast.parse("if __name__ == '__main__':\n    pass")
    assert len(faults({"rl.main": main, name: ast.parse(source)})) == expected
