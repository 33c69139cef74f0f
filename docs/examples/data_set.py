"""A data set: one folder per video, with frames, masks and the sentence in a text file.

root/<video>/frames/00000.jpg     the video
root/<video>/masks/00000.png      white where the target is; no file where it is absent
root/<video>/query.txt            the sentence
"""

from __future__ import annotations

from pathlib import Path

from cot_data.faults import RAISE, Faults
from cot_data.formats.frame_folder import FrameFolder
from cot_data.formats.png_masks import PngGold, PngTrack
from cot_data.tasks import Entry, Outline, Tasks
from env.errors import DataError


def load_folders(root: Path, faults: Faults = RAISE) -> Tasks:
    """Return one task per video folder, in name order. Frames and masks are read when a task is taken."""
    entries = []
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        with faults.collect():  # `cot_data.check` continues behind a fault, a run stops at it
            query = folder / "query.txt"
            if not query.is_file():
                raise DataError(str(query), "expected a text file with the sentence, found none")
            video = FrameFolder(root, f"{folder.name}/frames", None, None, str(folder))
            gold = PngGold((PngTrack(root, f"{folder.name}/masks", absent_without_file=True),))
            outline = Outline(f"{root.name}/{folder.name}/0", query.read_text().strip())
            entries.append(Entry(outline, video, gold, str(folder)))
    return Tasks(entries)
