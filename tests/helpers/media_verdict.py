"""Read a generated case with this program and with others, and say whether what came is right."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from PIL import Image
from pycocotools import mask as pycocotools_mask

from cot_data.check import check
from cot_data.datasets import load_tasks
from cot_data.faults import Faults
from cot_data.formats.frame_folder import FrameFolder, FramesOfFile
from env.errors import DataError, VideoSegError
from env.frames import Video, probe_with_notes
from env.media.video_file import METADATA, VideoFile
from env.rle import mask_or_empty
from tests.helpers.media_cases import Case

coco: Any = pycocotools_mask
SECONDS = 60  # after which a case counts as hanging


@dataclass
class Verdict:
    """What became of one case."""

    case: str
    outcome: str
    """"right", "in part" (some frames are refused), "refused", "varies" (FFmpeg itself reads the damage differently
    from one time to the next, as it leaves parts of a picture as the memory was), or what is wrong."""
    sentence: str = ""  # the first error

    @property
    def is_good(self) -> bool:
        return self.outcome in ("right", "in part", "refused", "varies")


@contextmanager
def time_limit(seconds: int = SECONDS) -> Iterator[None]:
    """Raise TimeoutError in the block after so many seconds."""

    def end(_: int, __: FrameType | None) -> None:
        raise TimeoutError(f"took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def verdict_on(case: Case, path: Path) -> Verdict:
    """Probe a case, read all of its frames and masks, check it as a data set, and compare all of that."""
    try:
        with time_limit():
            if case.kind in ("annotations", "png_masks"):
                return _on_annotations(case, path)
            return _on_frames(case, path)
    except VideoSegError as error:
        return Verdict(case.name, f"an error that nobody caught: {error}")
    except Exception as error:
        return Verdict(case.name, f"{type(error).__name__}: {error}")


# ---- frames ----


def _on_frames(case: Case, path: Path) -> Verdict:
    verdict, errors = _read(case, path)
    if not verdict.is_good and not case.intact and case.kind == "video":
        again = [_read(case, path)[0] for _ in range(5)]
        verdict.outcome = "varies" if any(other.is_good for other in again) else verdict.outcome
    faults = _faults_of(case, path)
    is_named = case.name == "one name twice"  # a data set names its frames, and .jpg comes first
    if verdict.is_good and bool(faults) != bool(errors) and not is_named:
        verdict.outcome = f"the check finds {len(faults)} faults, reading finds {len(errors)}"
        verdict.sentence = str((faults or [""])[0])
    return verdict


def _read(case: Case, path: Path) -> tuple[Verdict, list[str]]:
    """Return the verdict on all frames of a case, and the errors."""
    expected = _expected(case, path)
    errors: list[str] = []
    try:
        video = Video(probe_with_notes(path).video)
    except VideoSegError as error:
        errors.append(str(error))
        found: list[np.ndarray | None] = []
    else:
        found = []
        for at in range(video.ref.num_frames):
            try:
                found.append(video.frame(at))
            except VideoSegError as error:
                errors.append(str(error))
                found.append(None)
    return _compared(case, path, found, expected, errors), errors


def _expected(case: Case, path: Path) -> list[np.ndarray] | None:
    try:
        return case.frames(path)
    except (FFmpegError, OSError, SyntaxError, ValueError, AttributeError, Image.DecompressionBombError, EOFError):
        return None  # others cannot read it either


def _compared(
    case: Case, path: Path, found: list[np.ndarray | None], expected: list[np.ndarray] | None, errors: list[str]
) -> Verdict:
    """Return the verdict on the frames found (None: refused), given those that another program reads."""
    sentence = errors[0] if errors else ""
    if any("\n" in error for error in errors):
        return Verdict(case.name, "an error of several lines", sentence)
    if case.intact and (errors or expected is None):
        return Verdict(case.name, "refused, although it is intact", sentence)
    if not any(frame is not None for frame in found):
        return Verdict(case.name, "refused" if errors else "nothing was found, without a word", sentence)
    if expected is not None and len(expected) == len(found):
        wrong = [at for at, frame in enumerate(found) if frame is not None and not _same(frame, expected[at])]
    elif case.kind == "video" and not case.intact:
        wrong = _wrong_by_time(path, found)
    elif case.kind == "folder" and expected is None:
        wrong = []  # Pillow cannot read one of the images, and the folder's others are those of intact cases
    else:
        return Verdict(case.name, f"{len(found)} frames instead of {len(expected or [])}", sentence)
    if wrong:
        return Verdict(case.name, f"frames {wrong} are other ones", sentence)
    return Verdict(case.name, "in part" if errors else "right", sentence)


def _wrong_by_time(path: Path, found: list[np.ndarray | None]) -> list[int]:
    """Compare a damaged video by the times of its frames, since other programs leave out damaged ones."""
    file = VideoFile(path)
    with av.open(str(path), **METADATA) as container:
        stream: Any = container.streams.best("video")
        by_time: dict[int | None, list[np.ndarray]] = {}
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except FFmpegError:
                continue
            for frame in frames:
                key = len(by_time) if file._stamp == "place" else getattr(frame, file._stamp)
                by_time.setdefault(key, []).append(frame.to_ndarray(format="rgb24"))
    return [
        at
        for at, frame in enumerate(found)
        if frame is not None and not any(_same(frame, other) for other in by_time.get(file._times[at], []))
    ]


def _same(left: np.ndarray, right: np.ndarray) -> bool:
    return left.shape == right.shape and bool((left == right).all())


def _faults_of(case: Case, path: Path) -> list[DataError]:
    """Return what `cot_data.check` finds in the video of a data set."""
    faults = Faults(keep=True)
    if case.kind == "folder":
        FrameFolder(path.parent, path.name, None, None, "case").check(faults)
    else:
        FramesOfFile(path.parent, path.name, 1, "case").check(faults)
    return faults.found


# ---- annotations ----


def _on_annotations(case: Case, root: Path) -> Verdict:
    name = "mevis" if case.kind == "annotations" else "ref_youtube_vos"
    faults = check(name, root).found
    sentence = str(faults[0]) if faults else ""
    if any("\n" in str(fault) for fault in faults):
        return Verdict(case.name, "an error of several lines", sentence)
    try:
        tasks = list(load_tasks(name, root))
    except VideoSegError as error:
        outcome = "refused" if faults else "the check finds nothing, loading fails"
        return Verdict(case.name, "refused, although it is intact" if case.intact else outcome, str(error))
    if faults:
        return Verdict(case.name, "the check finds faults, loading does not", sentence)
    for task in tasks:
        for at, (rle, expected_HW) in enumerate(zip(task.gold, _gold(case, root, task), strict=True)):
            if not np.array_equal(mask_or_empty(rle, task.video.height, task.video.width), expected_HW):
                return Verdict(case.name, f"mask {at} of {task.task_id} is another one")
    return Verdict(case.name, "right")


def _gold(case: Case, root: Path, task: Any) -> list[np.ndarray]:
    """Return the masks of a task as pycocotools or Pillow read them."""
    expression = task.task_id.rpartition("/")[2]
    empty_HW = np.zeros((task.video.height, task.video.width), bool)
    if case.kind == "png_masks":
        value = {"0": 1, "1": 2}[expression]
        paths = sorted((root / "Annotations" / "train").iterdir())
        return [np.array(Image.open(path)) == value for path in paths]
    record = json.loads((root / "meta_expressions.json").read_text())["videos"]["clip"]["expressions"][expression]
    masks = json.loads((root / "mask_dict.json").read_text())
    found = []
    for at in range(task.video.num_frames):
        mask_HW = empty_HW.copy()
        for anno in record["anno_id"]:
            if masks[str(anno)][at] is not None:
                mask_HW |= coco.decode(masks[str(anno)][at]).astype(bool)
        found.append(mask_HW)
    return found
