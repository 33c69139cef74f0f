"""Names from outside stay in their folder, and text from outside is printed as text."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from configs.plain_text import plain
from env.errors import DataError
from env.outside_names import check_name, check_path
from env.terminal import shown

ROOT = Path(__file__).parents[2]
BAD_PARTS = [
    "",
    ".",
    "..",
    "a\\b",
    "a\0",
    "a\nb",
    "\x1b[2J",
    "a\x7f",
    "a\x85",
    "\u202eab",
    "\u2066",
    "a\u2028",
    "\ud800",
]
BAD_PATHS = ["/a", "a/", "a//b", "./a", "a/./b", "a/../b", "../a", "a/..", "//"]


@pytest.mark.parametrize("name", [*BAD_PARTS, "x" * 256, "é" * 128])
def test_a_bad_name_is_refused_alone_and_as_a_part(name: str) -> None:
    for path in (name, f"a/{name}", f"{name}/b", f"a/{name}/b"):
        with pytest.raises(DataError, match=r"^here: (the path|expected)"):
            check_path(path, "here")
    with pytest.raises(DataError):
        check_name(name, "here")


@pytest.mark.parametrize("path", BAD_PATHS)
def test_a_bad_path_is_refused(path: str) -> None:
    with pytest.raises(DataError):
        check_path(path, "here")


@pytest.mark.parametrize(
    "name", ["0", "a b", "...", "..a", "-x", "[red]", "狗é", "x" * 255, "a:b", "#", "\u200dz", "~"]
)
def test_other_names_are_taken(name: str) -> None:
    check_name(name, "here")
    check_path(f"{name}/{name}", "here")


def test_only_a_path_may_have_a_slash() -> None:
    check_path("a/b", "here")
    with pytest.raises(DataError, match="here: expected a name without a slash, found 'a/b'"):
        check_name("a/b", "here")


EVIL = "\x1b]0;title\x07\x1b[31mred\x1b[0m\r\n[bold]x[/bold] [/nope] \u202eok \ud800 :smile: \x9b2J"


def test_outside_text_is_printed_as_one_plain_line() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120)
    table = Table(title=shown(EVIL))
    table.add_column("a")
    table.add_row(shown(EVIL))
    console.print(table)
    console.print(shown(EVIL))
    console.rule(shown(EVIL))
    printed = out.getvalue()
    assert printed.count("red  [bold]x[/bold] [/nope] ok  :smile: 2J") == 4
    assert not {"\x1b]", "\x1b[31m", "\x07", "\r", "\u202e", "\ud800", "\x9b"} & {
        part for part in ("\x1b]", "\x1b[31m", "\x07", "\r", "\u202e", "\ud800", "\x9b") if part in printed
    }


def test_a_long_text_is_cut() -> None:
    assert len(plain("x" * 1000)) == 400 and plain("x" * 1000).endswith("x...")
    assert str(shown("y" * 30, limit=10)) == "y" * 7 + "..."


def test_an_error_of_a_command_is_one_plain_line(tmp_path: Path) -> None:
    root = tmp_path / "\x1b[31m[red]"
    command = [sys.executable, "-m", "cot_data.build", str(root), "--out", str(tmp_path / "t.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1 and "\x1b" not in done.stderr and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: {tmp_path}/[red]/meta_expressions.json: expected a JSON file")
