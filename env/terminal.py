"""Print text from outside: names, sentences and errors never reach a terminal as escape sequences or as markup."""

from __future__ import annotations

from rich.text import Text

from configs.plain_text import plain


def shown(text: object, limit: int = 400, style: str = "") -> Text:
    """Return a text for rich: of one line, without escape sequences, and with brackets as they are.

    Args:
        text: What is printed; its `str` is taken.
        limit: Most characters; a longer text is cut off.
        style: Of rich, such as "bold".
    """
    return Text(plain(str(text), limit), style)
