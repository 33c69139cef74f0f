"""Docstrings become reStructuredText that docutils reads as it was meant."""

from __future__ import annotations

import pytest

from docs.docstrings import inline, to_rst


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("see `a.b`, and `c`s", "see ``a.b``, and ``c``\\ s"),
        ("a `code\nover two lines`", "a ``code over two lines``"),
        ("a *word* of a|b, x * y and old_", "a *word* of a\\|b, x \\* y and old\\_"),
        ("* one\n* two", "* one\n* two"),
        ("`a` | `b`", "``a`` \\| ``b``"),
        ("logprobs_BL and __init__", "logprobs_BL and __init_\\_"),
    ],
)
def test_inline_markup(text: str, expected: str):
    assert inline(text) == expected


def test_an_indented_block_is_literal_and_sections_and_lists_are_not():
    lines = [
        "A table:",
        "",
        "    a   *b*",
        "",
        "    c   d",
        "",
        "* one",
        "  more",
        "",
        "Args:",
        "    x: a `y`",
        "",
        "End.",
    ]
    assert to_rst(lines) == [
        *("A table:", "", "::", "", "    a   *b*", "", "    c   d", ""),
        *("* one", "  more", "", "Args:", "    x: a ``y``", "", "End."),
    ]
