"""Rows of the cold start as batches: sequences, how much each token counts, and the mask wanted at every [SEG]."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from configs.schema import StageConfig
from cot_data.traces.claims import UNDECIDED
from cot_data.traces.compact_style import UNCLEAR
from env.rle import mask_or_empty
from env.types import Answer, Select, Task, Trajectory
from policy.videoseg.model import SegPolicy
from policy.vlm.batch import ALIKE, Batch, FrameSource, TokenSequence, collate, pack, to_sequence
from rl.sft.token_weights import TokenWeights


@dataclass(frozen=True)
class SftBatch:
    """One collated batch: sequences, weights of their tokens, and the mask wanted at each [SEG]."""

    batch: Batch
    token_weights_BL: Tensor
    targets: list[tuple[int, Any, int]]  # (row of prompts, video, frame index)
    gold: list[np.ndarray]  # bool [H, W] per target
    captions: dict[int, str]  # row of prompts -> caption


class LessonCollator:
    """Row indices to `SftBatch`s: the first `batch_size` rows as they are, the others (readings) with nothing to see.

    The mask frames of a [SEG] are drawn from generators seeded by the rows, one for each, so that they are the same
    however the rows come in batches. `max_tokens` bounds the padded tokens of a lesson; 0: not at all.
    """

    def __init__(
        self,
        policy: SegPolicy,
        make: Callable[[int], Trajectory],
        make_reading: Callable[[int], Trajectory],
        frames: FrameSource,
        num_mask_frames: int,
        stage: StageConfig,
        seed: int,
        max_tokens: int = 0,
    ):
        self.policy = policy
        self.make = make
        self.make_reading = make_reading
        self.frames = frames
        self.num_mask_frames = num_mask_frames
        self.batch_size = stage.batch_size
        self.weights = TokenWeights(policy.chat, stage.decision_weight)
        self.seed = seed
        self.max_tokens = max_tokens

    def __call__(self, rows: list[dict[str, int]]) -> dict[str, list[SftBatch]]:
        indices = [row["index"] for row in rows]
        rngs = np.random.default_rng([self.seed, *indices]).spawn(len(indices))
        seen = [self.make(index) for index in indices[: self.batch_size]]
        read = [self.make_reading(index) for index in indices[self.batch_size :]]
        return {"lessons": [*self.lessons(seen, rngs[: len(seen)]), *self.lessons(read, rngs[len(seen) :])]}

    def lessons(self, trajectories: Sequence[Trajectory], rngs: Sequence[np.random.Generator]) -> list[SftBatch]:
        """`trajectories` in batches of like length: in one alone a quarter would be padding."""
        if not trajectories:
            return []
        sequences = [to_sequence(trajectory, self.policy.chat, self.policy.layout) for trajectory in trajectories]
        lengths = [len(sequence) for sequence in sequences]
        pieces = pack(lengths, self.max_tokens or len(lengths) * max(lengths), least_share=ALIKE)
        parts = [[(trajectories[at], sequences[at], rngs[at]) for at in piece] for piece in pieces]
        return [self.lesson(*zip(*part, strict=True)) for part in parts]

    def lesson(
        self,
        trajectories: Sequence[Trajectory],
        sequences: Sequence[TokenSequence],
        rngs: Sequence[np.random.Generator],
    ) -> SftBatch:
        """One batch of all of them."""
        chat, layout = self.policy.chat, self.policy.layout
        batch = collate(sequences, chat, layout, self.frames, self.policy.device)
        weights_BL = torch.zeros(batch.input_ids_BL.shape, device=self.policy.device)
        targets, gold, captions = [], [], {}
        prompt_row = 0
        for row, (trajectory, sequence, rng) in enumerate(zip(trajectories, sequences, rngs, strict=True)):
            weights = self.weights(trajectory, sequence)
            weights_BL[row, : len(sequence)] = torch.tensor(weights, device=self.policy.device)
            task = trajectory.task
            for turn in (trajectory.turns[number] for number in sequence.seg_turns):
                decision = turn.decision
                if isinstance(decision, Select) and not _is_named(task, turn.action.text):
                    prompt_row += 1  # the target is still unnamed: a mask wanted here would teach to guess
                    continue
                if isinstance(decision, Select | Answer) and task.gold and sequence.frames:
                    for frame_idx in self._mask_frames(task, decision.key_frame, rng):
                        targets.append((prompt_row, task.video, frame_idx))
                        gold.append(mask_or_empty(task.gold[frame_idx], task.video.height, task.video.width))
                if task.caption and any(task.gold):
                    captions[prompt_row] = task.caption
                prompt_row += 1
        return SftBatch(batch, weights_BL, targets, gold, captions)

    def _mask_frames(self, task: Task, key_frame: int, rng: np.random.Generator) -> list[int]:
        others = rng.choice(task.video.num_frames, self.num_mask_frames - 1)
        return [key_frame, *(int(at) for at in others)]


def _is_named(task: Task, look: str) -> bool:
    """Whether a look says who the target is: at a query that is a name, not where exploring is to tell.

    Where the data set has no names, a look says so if it does not know yet.
    """
    return not task.explore and (
        task.caption in look if task.caption else UNDECIDED not in look and UNCLEAR not in look
    )
