"""The data set of the cold start: a recorded or written trace of each task, and the words in them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from configs.plain_text import plain
from configs.schema import RunConfig
from cot_data.datasets.matching import match
from cot_data.datasets.mevis import LABELS
from cot_data.datasets.mixture import epoch_order
from cot_data.datasets.training_sources import load_source, training_sources
from cot_data.faults import Faults
from cot_data.formats.vts_cot import Record, read_records
from cot_data.moving_shapes.labels import load_objects
from cot_data.tasks import Outline, read_each
from cot_data.traces.dialogue import check_turns, to_trajectory, without_frames
from cot_data.traces.visibility import PLACES
from cot_data.traces.write import write_trace
from env.errors import DataError
from env.prompts import find_prompt
from env.types import RLE, Task, Trajectory, VideoRef

logger = logging.getLogger(__name__)
ABOUT_PLACES = ("motion", "relation")  # families of queries that the names of the objects do not answer
MAX_NAMES = 64  # more names of several words than this get no token each
CORPUS_TRACES = 400  # number of traces that the tokenizer is trained on


@dataclass(frozen=True)
class NamedMasks:
    """A video and its objects that have names."""

    video: VideoRef
    objects: tuple[tuple[str, tuple[RLE | None, ...]], ...]  # (name, mask per frame [T]; None: not visible)


class SftDataset:
    """Records with their tasks: one data set in the order of its file, or one epoch of a mixture of several.

    The records are those of the `traces` files; without such a file a trace is written from gold masks on access.
    """

    def __init__(self, config: RunConfig):
        sources = training_sources(config.data)
        self.config = config
        self.parts = [load_source(source) for source in sources]
        self.outlines = [outline for part in self.parts for outline in part.outlines]
        self._records = [_checked_records(Path(source.traces), config) if source.traces else None for source in sources]
        self._rows = [
            range(len(part)) if records is None else match(records, part.outlines, source.traces)
            for source, part, records in zip(sources, self.parts, self._records, strict=True)
        ]
        sizes, weights = tuple(len(rows) for rows in self._rows), tuple(source.weight for source in sources)
        self._order = epoch_order(sizes, weights, config.seed, 0) if len(sources) > 1 else _file_order(sizes[0])
        roots = [Path(source.root) for source in sources]
        faults = Faults(keep=True)
        self.videos = [each for root in roots if (root / LABELS).is_file() for each in load_objects(root, faults)]
        for fault in faults.found:
            logger.warning("a video with labels is left out: %s", plain(str(fault), 1000))
        self._objects = {each.video: each.objects for each in self.videos}
        self._text_only_rows = [row for row in range(len(self)) if self._outline(row).family not in ABOUT_PLACES]

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, row: int) -> tuple[Record, Task]:
        number, at = self._order[row]
        task, records, env = self.parts[number][self._rows[number][at]], self._records[number], self.config.env
        if records is not None:
            return records[at], task
        rng = np.random.default_rng([self.config.seed, row])
        objects, zoom_share = self._objects.get(task.video, ()), self.config.cold_start.zoom_share
        style = find_prompt(env.prompt).traces
        return write_trace(task, env, rng, style, objects=objects, zoom_share=zoom_share), task

    def _outline(self, row: int) -> Outline:
        number, at = self._order[row]
        return self.parts[number].entries[self._rows[number][at]].outline

    def dialogue(self, row: int) -> Trajectory:
        """Return a row's trace as a trajectory of the environment."""
        return to_trajectory(*self[row], self.config.env)

    def text_only(self, row: int) -> Trajectory:
        """Return a trace without frames, of a query that its text can answer; rows beyond the last start over."""
        if not self._text_only_rows:
            where = ", ".join(ABOUT_PLACES)
            raise DataError("cold_start.stages, text_only_traces", f"expected tasks of families other than {where}")
        return without_frames(self.dialogue(self._text_only_rows[row % len(self._text_only_rows)]))

    def named(self) -> list[NamedMasks]:
        """Return the objects that `masks` trains on: all labelled ones, or without labels the targets of the tasks."""
        if self.videos:
            return [NamedMasks(each.video, tuple((o.caption, o.masks) for o in each.objects)) for each in self.videos]
        by_video: dict[VideoRef, dict[str, tuple[RLE | None, ...]]] = {}
        for task in chain.from_iterable(map(read_each, self.parts)):
            if isinstance(task, Task) and any(task.gold):
                by_video.setdefault(task.video, {})[task.caption or task.expression] = task.gold
        return [NamedMasks(video, tuple(objects.items())) for video, objects in by_video.items()]

    def corpus(self) -> list[str]:
        """Return the texts on which the tokenizer of the small default is trained."""
        faults = Faults(keep=True)  # a trace that cannot be read is told when its stage comes to it
        trajectories: list[Trajectory] = []
        for row in range(min(len(self), CORPUS_TRACES)):
            with faults.collect():
                trajectories.append(self.dialogue(row))
        turns = [turn for trajectory in trajectories for turn in trajectory.turns]
        observed = [part for turn in turns for part in turn.observation.parts if isinstance(part, str)]
        words = {
            "user",
            "assistant",
            *(f" {place}" for place in PLACES),
            *(f" {outline.expression}" for outline in self.outlines),
        }
        return [*(turn.action.text for turn in turns), *observed, *sorted(words) * 3]

    def phrases(self) -> list[str]:
        """Return the names (if there are few) and places of several words: each is one token of the small default."""
        captions = sorted({each.caption for each in self.outlines if " " in each.caption})
        return [*(captions if len(captions) <= MAX_NAMES else []), *(place for place in PLACES if " " in place)]


def _checked_records(path: Path, config: RunConfig) -> list[Record]:
    """Return the records of a file, each of which has been run: a mistake in one is told before anything is trained."""
    records = read_records(path)
    for record in records:
        check_turns(record, config.env)
    return records


def _file_order(size: int) -> tuple[tuple[int, int], ...]:
    """Return (data set, position) of every row of a single data set, in the order of its file."""
    return tuple((0, at) for at in range(size))
