"""Strict JSON: what two readers would read differently, or what no file can hold, is a ValueError with the reason."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from env.json_text import parse_json

ROOT = Path(__file__).parents[2]
FAULTS = {
    '{"a": 1, "b": 2, "a": 1}': "the key 'a' stands twice",
    '[{"x": {"é": [], "\\u00e9": 0}}]': "the key 'é' stands twice",
    '{"": 1, "": 2}': "the key '' stands twice",
    '{"a": NaN}': "NaN is not a JSON number",
    "[-Infinity]": "-Infinity is not a JSON number",
    "[1, -1e999]": "the number -1e999 is too large",
    f"[{'7' * 4301}]": "4300 digits",
    "[" * 100_000: "nested too deeply",
    '{"a":' * 100_000: "nested too deeply",
    "\ufeff{}": "byte order mark",
    '{"a": "\\ud800"}': "half of a surrogate pair",
    '{"\\uDFFF": 1}': "half of a surrogate pair",
    '["\\ude00\\ud83d"]': "half of a surrogate pair",
    '{"a": 1} {}': "Extra data",
    "": "Expecting value",
}


@pytest.mark.parametrize(("text", "reason"), FAULTS.items(), ids=range(len(FAULTS)))
def test_a_fault_is_named(text: str, reason: str) -> None:
    for given in (text, text.encode()):
        with pytest.raises(ValueError) as caught:
            parse_json(given)
        assert reason in str(caught.value) and len(str(caught.value)) < 200


@pytest.mark.parametrize("raw", [b'"\xed\xa0\x80"', b'"\xff"', '{"a": 1}'.encode("utf-16")])
def test_bytes_that_are_no_utf_8_are_an_error(raw: bytes) -> None:
    with pytest.raises(ValueError, match="codec can't decode"):
        parse_json(raw)


@pytest.mark.parametrize(
    "text",
    [
        '{"a": {"a": {"a": 1}}, "b": [{"a": 1}, {"a": 2}], "A": -0.0}',
        '["\\ud83d\\ude00", "\\ud7ff", "\\ue000", "\\\\ud800", "é狗"]',
        f"[{'7' * 4300}, 1e308, 1e-400, {'[' * 100}{']' * 100}]",
    ],
)
def test_other_texts_are_read_as_by_the_json_module(text: str) -> None:
    assert parse_json(text) == json.loads(text) == parse_json(text.encode())


# Texts of the policy, whose mistakes are values; JSON of our own; an example of a checkpoint of a user's own.
LENIENT = {
    "rewards/videoseg_o3.py",
    "env/actions.py",
    "rl/evaluation/identity.py",
    "policy/engines/weight_sync.py",
    "docs/examples/model_family.py",
}


def test_every_reader_of_json_is_strict() -> None:
    folders = ("configs", "env", "rewards", "policy", "cot_data", "rl", "docs")
    found = set()
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            call = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
            if call in ("json.load", "json.loads", "response.json"):
                found.add(path.relative_to(ROOT).as_posix())
    assert found <= LENIENT
