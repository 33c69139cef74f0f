"""Progress bars for long loops."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from configs.plain_text import plain


@contextmanager
def progress_bar(title: str, total: int, done: int = 0) -> Iterator[Callable[[], None]]:
    """Show a progress bar while the block runs; it yields a function to call once per item.

    Args:
        title: Text beside the bar.
        total: Number of items.
        done: Items that were done before.
    """
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as progress:
        bar = progress.add_task(plain(title), total=total, completed=done)
        yield lambda: progress.advance(bar)
