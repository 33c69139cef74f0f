"""Load GroundMoRe: `test_v2.json`, and `annotations/<video>/{images,masks}/`.

A question is about an action with a start and an end. The gold masks are empty outside of that window, whatever the
mask files show there. The name of a video ends with the start and end of its clip, `MMSS_MMSS`. The videos have six
frames a second.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cot_data.faults import RAISE, Faults
from cot_data.formats.frame_folder import FrameFolder
from cot_data.formats.json_fields import field, read_json
from cot_data.formats.png_masks import check_folder, object_mask
from cot_data.tasks import Entry, Outline, Tasks
from env.data_root import check_links
from env.errors import DataError
from env.outside_names import check_name, check_path
from env.types import RLE, VideoRef

META = "test_v2.json"
FRAMES_PER_SECOND = 6
SUBSETS = ("Causal", "Sequential", "Counterfactual", "Descriptive")  # `q_type`
NAMES = ("frame_{:06d}.png", "{:07d}.png")  # of the masks, by the frame's index
_CLIP = re.compile(r"(\d\d)(\d\d)_\d{4}$")
_TIME = re.compile(r"(?:(\d+):)?(\d+):(\d\d)")


def load_groundmore(root: Path, faults: Faults = RAISE) -> Tasks:
    """Return every question as a task with `q_type` as its subset, in string order within a video."""
    file = root / META
    check_links(root, META, str(file))
    videos = field(read_json(file), "videos", dict, str(file))
    found = []
    for name, record in videos.items():
        where = f"{file}: videos[{name!r}]"
        with faults.collect():
            check_path(name, where)
            footage = FrameFolder(root, f"annotations/{name}/images", None, None, where)
            questions = field(record, "questions", dict, where)
            for number in sorted(questions):
                with faults.collect():
                    question_where = f"{where}.questions[{number!r}]"
                    check_name(number, question_where)
                    outline = _outline(f"{root.name}/{name}/{number}", questions[number], question_where)
                    found.append(
                        Entry(outline, footage, _gold(root, name, questions[number], question_where), question_where)
                    )
    return Tasks(found)


def _outline(task_id: str, question: Any, where: str) -> Outline:
    subset = field(question, "q_type", str, where)
    if subset not in SUBSETS:
        raise DataError(f"{where}.q_type", f"expected one of {', '.join(SUBSETS)}, found {subset!r}")
    return Outline(task_id, field(question, "question", str, where), subset=subset)


def _gold(root: Path, name: str, question: Any, where: str) -> WindowGold:
    clip = _CLIP.search(name)
    if clip is None:
        raise DataError(where, f"expected a video name that ends with its clip's times, MMSS_MMSS, found {name!r}")
    clip_start = int(clip[1]) * 60 + int(clip[2])
    start = (_seconds(question, "action_start", where) - clip_start) * FRAMES_PER_SECOND
    end = (_seconds(question, "action_end", where) - clip_start) * FRAMES_PER_SECOND
    if start >= end:
        problem = f"expected a time after action_start, found frames {start} to {end} of the clip"
        raise DataError(f"{where}.action_end", problem)
    obj_id = field(question, "obj_id", (int, str), where)
    if not str(obj_id).isdecimal():
        raise DataError(f"{where}.obj_id", f"expected a palette value, found {obj_id!r}")
    return WindowGold(root, f"annotations/{name}/masks", int(obj_id), start, end)


def _seconds(question: Any, name: str, where: str) -> int:
    text = field(question, name, str, where)
    time = _TIME.fullmatch(text.strip())
    if time is None:
        raise DataError(f"{where}.{name}", f"expected a time as mm:ss, found {text!r}")
    return int(time[1] or 0) * 3600 + int(time[2]) * 60 + int(time[3])


@dataclass(frozen=True)
class WindowGold:
    """The pixels of `value` in those frames of [start, end) that the video has.

    A frame without a mask file does not show the object.
    """

    root: Path
    folder: str
    value: int
    start: int
    end: int

    def masks(self, video: VideoRef, where: str, faults: Faults = RAISE) -> tuple[RLE | None, ...]:
        """Read the masks; see `cot_data.tasks.Gold`."""
        check_folder(self.root, self.folder, where)
        found: list[RLE | None] = [None] * video.num_frames
        for t in range(max(self.start, 0), min(self.end, video.num_frames)):
            paths = (self.root / self.folder / name.format(t) for name in NAMES)
            path = next((path for path in paths if os.path.lexists(path)), None)
            if path is not None:
                with faults.collect():
                    found[t] = object_mask(path, self.value, video, f"{where}, frame {t}")
        return tuple(found)

    def check(self, video: VideoRef, where: str, faults: Faults) -> None:
        """Collect the faults of all masks; see `cot_data.tasks.Gold`."""
        self.masks(video, where, faults)
