"""Docstrings of this program as reStructuredText.

They are plain text with `code` in backticks, *emphasis*, lists, indented blocks that are shown as they stand, and the
sections of Google's style, which Sphinx's napoleon reads. Anything else that reStructuredText would read as markup is
escaped.
"""

from __future__ import annotations

import re
from itertools import groupby

SECTION = re.compile(r"(Args|Attributes|Example|Examples|Raises|Returns|Yields):")
BULLET = re.compile(r"\s*([*-]|\d+\.)\s")
CODE = re.compile(r"(``.+?``|(?<!`)`[^`]+`(?!`))(\w*)", re.DOTALL)
EMPHASIS = re.compile(r"((?<![\w*])\*{1,2}(?=[^\s*])[^*]*?[^\s*]\*{1,2}(?![\w*]))", re.DOTALL)


def to_rst(lines: list[str]) -> list[str]:
    """Return the lines of a docstring as reStructuredText; indentation is that of the source, taken off."""
    found: list[str] = []
    in_section = is_literal = in_list = False
    for is_blank, group in groupby(lines, key=lambda line: not line.strip()):
        block = list(group)
        if is_blank:
            found += block
            continue
        is_indented = block[0].startswith(" ")
        in_section = bool(SECTION.fullmatch(block[0])) or (in_section and is_indented)
        in_list = not in_section and (bool(BULLET.match(block[0])) or (in_list and is_indented))
        if is_indented and not in_section and not in_list:
            found += block if is_literal else ["::", "", *block]
            is_literal = True
        else:
            is_literal = False
            found += inline("\n".join(block)).split("\n")
    return found


def inline(text: str) -> str:
    """Return a paragraph with its code, and without accidental markup. Letters may follow code: `id`s."""
    parts = []
    end = 0
    for match in CODE.finditer(text):
        parts += [_escaped(text[end : match.start()]), f"``{' '.join(match[1].strip('`').split())}``"]
        parts += [rf"\ {match[2]}"] if match[2] else []
        end = match.end()
    return "".join([*parts, _escaped(text[end:])])


def _escaped(text: str) -> str:
    """Escape what would be markup, but not emphasis and the marks of lists."""
    parts = EMPHASIS.split(text)
    for i in range(0, len(parts), 2):  # between emphasised words
        part = parts[i].replace("\\", "\\\\").replace("|", r"\|").replace("`", r"\`")
        part = re.sub(r"(?<=\w)_(?!\w)", r"\\_", part)
        parts[i] = re.sub(r"(?m)(?<!^)(?<!^ )(?<!^  )\*|^\*(?! )", r"\*", part)
    return "".join(parts)
