"""Names and paths that pages and docstrings mention exist, and those that do not are found."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs.references import ROOT, find_dead_references, is_config_key, is_name


def test_every_name_and_path_of_pages_and_docstrings_exists():
    assert find_dead_references() == []


def test_dead_names_and_paths_are_found(tmp_path: Path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "page.md").write_text("`rl.gone`, `rl/gone.py`, `grpo.lr`, ``rl/new.py``\n```\n`rl.x`\n```\n")
    (tmp_path / "env").mkdir()
    (tmp_path / "env" / "a.py").write_text('"""See `env.a.missing` and `env.a.here`."""\nhere = 1\n')
    assert [sentence.split(" is ")[0] for sentence in find_dead_references(tmp_path)] == [
        "docs/page.md: `rl.gone`",
        "docs/page.md: `rl/gone.py`",
        "env/a.py:1: `env.a.missing`",
    ]


@pytest.mark.parametrize(
    ("name", "exists"),
    [
        ("rl.grpo", True),
        ("rl.grpo.train", True),
        ("rewards.REWARDS", True),
        ("env.types.Task.gold", True),
        ("env.types.Task.silver", False),
        ("policy.sam.image_size", True),
        ("policy.sam.image_sizes", False),
        ("rewards.turn_cost", True),
    ],
)
def test_names(name: str, exists: bool):
    assert is_name(ROOT, name) is exists


def test_config_keys():
    assert is_config_key("grpo.lr") and not is_config_key("grpo.learning")
