"""Text from outside, made safe for a terminal and for one line."""

from __future__ import annotations

import re
import unicodedata

ESCAPE_SEQUENCES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)", re.DOTALL)
MAX_MESSAGE = 4000  # characters of an error


def plain(text: str, limit: int = 400) -> str:
    """Return text without escape sequences, control, direction and surrogate characters, safe for a terminal."""
    text = ESCAPE_SEQUENCES.sub("", text)
    text = "".join(" " if char.isspace() else char for char in text)
    text = "".join(char for char in text if char == " " or unicodedata.category(char)[0] != "C")
    return text if len(text) <= limit else text[: limit - 3] + "..."
