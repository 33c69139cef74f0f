"""Check a whole data set and report every broken record: `python -m cot_data.check ROOT --dataset NAME`.

The check reads the metadata of every record, and decodes every frame and every gold mask; with `--decode 0.1` it
decodes every tenth frame of a video and reads the headers of the others. It continues after a fault, and exits with 1
if it found any.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from configs.plain_text import plain
from cot_data.datasets import DATASETS, load_tasks
from cot_data.faults import Faults
from cot_data.tasks import Entry, Footage
from env.errors import DataError, command
from env.types import VideoRef

_VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi")
# How to fix a fault, by the end of the file's name; the first match counts.
REMEDIES = (
    (".jpg", "unpack this frame again, or take its video out of the metadata"),
    (".jpeg", "unpack this frame again, or take its video out of the metadata"),
    (".png", "unpack this mask again, or take its expression out of the metadata"),
    *((suffix, "download this video again, or take it out of the metadata") for suffix in _VIDEO_SUFFIXES),
    (".pkl", "write the masks again, as plain lists and dicts, or take the expression out of the metadata"),
    ("mask_dict.json", "download or write the masks again, or take the expression out of the metadata"),
    ("_manual.json", "download the annotations of this video again, or take it out of the metadata"),
    (".json", "correct this field of the record, or take the record out"),
    ("", "name the folder that the data set's loader describes"),
)
_FIELD = re.compile(r"^(.*?)(?:\.(\w+(?:\[\d+\])*)|, (frame \d+)|((?:\[\d+\])+(?:\.size)?))$")
_TOP_FIELD = re.compile(r"(.*\.json)\.(\w+)")  # a field of the file's outermost object


def check(name: str, root: Path, decode: float = 1.0) -> Faults:
    """Find every fault of a data set; show a progress bar.

    Args:
        name: Of the data set's layout.
        root: Its folder.
        decode: Share of each video's frames that are decoded, 0 to 1.

    Returns:
        The faults and notes, in the order in which they were found.
    """
    faults = Faults(keep=True, decode=decode)
    entries: Sequence[Entry] = ()
    with faults.collect():
        entries = load_tasks(name, root, faults).entries
    videos: dict[Footage, VideoRef | None] = {}
    seen = set()
    for entry in track(entries, f"{name}: {len(entries)} expressions", console=Console(stderr=True)):
        if entry.footage not in videos:
            videos[entry.footage] = entry.footage.check(faults)
        video, gold = videos[entry.footage], entry.gold
        if video is not None and gold is not None and (video, gold) not in seen:
            seen.add((video, gold))
            with faults.collect():
                gold.check(video, entry.where, faults)
    return faults


def cells(fault: DataError) -> tuple[str, str, str, str, str]:
    """Return the file, the record, the field, what is wrong and what to do."""
    file, _, place = fault.where.partition(": ")
    top = _TOP_FIELD.fullmatch(file)
    if top:
        file, place = top[1], f".{top[2]}"
    found = _FIELD.match(place)
    record, names = (found[1], found.groups()[1:]) if found else (place, ())
    remedy = next(remedy for ending, remedy in REMEDIES if file.lower().endswith(ending))
    return file, record, next((name for name in names if name), ""), fault.problem, remedy


def fault_table(faults: Sequence[DataError]) -> Table:
    """Return a table with one row per fault."""
    table = Table(box=SIMPLE_HEAD, show_lines=False)
    for column in ("file", "record", "field", "what is wrong", "what to do"):
        table.add_column(column, overflow="fold")
    for fault in faults:
        table.add_row(*(Text(plain(cell)) for cell in cells(fault)))  # no markup: records have brackets in their names
    return table


@command
def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Report every broken record of a data set.")
    parser.add_argument(
        "root", type=Path, help="folder of the data set, or of its split: see cot_data/datasets/<NAME>.py"
    )
    parser.add_argument("--dataset", default="mevis", choices=DATASETS, help="its layout (default: %(default)s)")
    parser.add_argument(
        "--decode",
        type=_share,
        default=1.0,
        help="share of each video's frames that are decoded, 0 to 1; of the others the header is read (default: all)",
    )
    args = parser.parse_args()
    faults = check(args.dataset, args.root, args.decode)
    if faults.found:
        Console().print(fault_table(faults.found))
    for note in faults.notes:
        print(f"note: {plain(note)}")
    print(f"{args.root}: {len(faults.found)} faults")
    sys.exit(1 if faults.found else 0)


def _share(text: str) -> float:
    """Parse a share. ValueError, which argparse reports, where it is none."""
    share = float(text)
    if not 0 <= share <= 1:
        raise ValueError(text)
    return share


if __name__ == "__main__":
    main()
