"""YAML from outside: what has no bound, or reads differently to two readers, is refused with its line."""

from __future__ import annotations

import time

import pytest
import yaml

from configs.yaml_text import MAX_DEPTH, MAX_TEXT, parse_yaml

BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (BOMB, r"line 1 holds an anchor or alias \('a0'\)"),
        ("a: {b: 1}\nc: *d\n", r"line 2 holds an anchor or alias \('d'\)"),
        ("a:\n  - &x\n", "line 2 holds an anchor"),
        ("base: &base {a: 1}\nmore: {<<: *base}\n", "line 1 holds an anchor"),
        ("grpo: {lr: 1}\nseed: 3\ngrpo: {}\n", "line 3 holds the key 'grpo' twice"),
        ("a: {b: 1, 'b': 2}", "line 1 holds the key 'b' twice"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), f"more than {MAX_DEPTH} levels"),
        ("- " * 5000 + "x", f"more than {MAX_DEPTH} levels"),
        ("{a: " * 5000, f"more than {MAX_DEPTH} levels"),
        ("x" * (MAX_TEXT + 1), f"holds {MAX_TEXT + 1} characters"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("a: b: c", "mapping values are not allowed"),
        ("a: 2026-99-99", "month must be in 1..12"),
        ("? [1, 2]\n: 3", "unhashable key"),
        ("a: 1\n--- \nb: 2", "expected a single document"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(text: str, problem: str):
    started = time.monotonic()
    with pytest.raises(ValueError, match=problem) as caught:
        parse_yaml(text)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("text", ["", "a: 1\nb: [1, 2.5, {c: null}]\n", "a: |\n  {x}\n  y\n", "'<<': 1", "- &1\n"[:2]])
def test_everything_else_is_read_as_the_safe_loader_reads_it(text: str):
    assert parse_yaml(text) == yaml.safe_load(text)
