"""Read about 500 generated media and annotation files, and count what is right, refused or wrong.

    python -m tests.bench.media_sweep --predict --out runs/media

Every file is probed, read frame by frame, checked as `cot_data.check` does it, and compared with the reading of PyAV,
Pillow or pycocotools (`tests.helpers.media_cases`). With `--predict` policy/tiny also segments every video on its
Hugging Face sampler, all in one process: a file that cannot be read must not affect the others.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from rich.progress import track

from configs.load import load_config
from env.errors import DataError
from env.rle import decode
from env.types import StopReason
from policy import SHIPPED
from rl.predict import predict_each
from tests.helpers.annotation_cases import every_case
from tests.helpers.media_cases import Case
from tests.helpers.media_verdict import Verdict, time_limit, verdict_on


def sweep(cases: list[Case], out: Path) -> Iterator[tuple[Case, Path, Verdict]]:
    """Build and read each case; yield it with its path and the verdict."""
    for number, case in enumerate(cases):
        folder = out / f"{number:03d}"
        folder.mkdir(parents=True)
        path = case.build(folder)
        yield case, path, verdict_on(case, path)


def predictions(read: list[tuple[Case, Path, Verdict]], out: Path) -> Iterator[Verdict]:
    """Predict every video, and yield what became of it."""
    videos = [item for item in read if item[0].kind in ("video", "folder")]
    config = load_config("tiny", ["sampler.kind=hf"])
    folders = {out / f"{number:03d}": path for number, (_, path, _) in enumerate(videos)}
    found = predict_each(config, folders, "the red shape", SHIPPED)
    for (case, _, verdict), folder in zip(videos, folders, strict=True):
        try:
            with time_limit():
                outcome, sentence = _outcome(next(found), folder, verdict)
        except Exception as error:
            yield Verdict(case.name, f"{type(error).__name__}: {error}")
            return
        yield Verdict(case.name, outcome, sentence)


def _outcome(found: object, folder: Path, verdict: Verdict) -> tuple[str, str]:
    masks = list((folder / "masks").glob("*.png")) if folder.exists() else []
    if isinstance(found, DataError) or found.stop_reason is StopReason.ERROR:  # pyright: ignore[reportAttributeAccessIssue]
        sentence = str(found) if isinstance(found, DataError) else found.error  # pyright: ignore[reportAttributeAccessIssue]
        if masks:
            return "failed, and left masks", sentence
        return ("failed, although it was read" if verdict.outcome == "right" else "refused"), sentence
    task = found.task  # pyright: ignore[reportAttributeAccessIssue]
    if verdict.outcome == "refused":
        return "predicted, although it was refused", ""
    if len(masks) != task.video.num_frames:
        return f"{len(masks)} masks of {task.video.num_frames} frames", ""
    sizes = {decode(rle).shape for rle in found.masks.values()}  # pyright: ignore[reportAttributeAccessIssue]
    return ("right" if sizes <= {(task.video.height, task.video.width)} else f"masks of {sizes}"), ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/media"), help="empty folder (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of what is damaged, and where")
    parser.add_argument("--predict", action="store_true", help="also predict every video, which takes half an hour")
    args = parser.parse_args()
    cases, begun = every_case(args.seed), time.monotonic()
    read = list(track(sweep(cases, args.out / "files"), "reading", total=len(cases)))
    print(f"{len(cases)} files read in {time.monotonic() - begun:.0f} s")
    bad = _report([verdict for _, _, verdict in read])
    if args.predict:
        begun = time.monotonic()
        made = list(track(predictions(read, args.out / "predictions"), "predicting"))
        print(f"{len(made)} videos predicted in {time.monotonic() - begun:.0f} s")
        bad += _report(made)
    sys.exit(1 if bad else 0)


def _report(verdicts: list[Verdict]) -> int:
    """Print counts, and each verdict that is not good; return how many those are."""
    counts = Counter(verdict.outcome if verdict.is_good else "WRONG" for verdict in verdicts)
    print(", ".join(f"{outcome}: {count}" for outcome, count in counts.most_common()))
    bad = [verdict for verdict in verdicts if not verdict.is_good]
    for verdict in bad:
        print(f"  {verdict.case}: {verdict.outcome} ({verdict.sentence})")
    return len(bad)


if __name__ == "__main__":
    main()
