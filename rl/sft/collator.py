"""Rows of the cold start as batches: sequences, the weight of each token, and the target mask at every [SEG]."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cot_data.traces.claims import UNDECIDED
from cot_data.traces.compact_style import UNCLEAR
from env.rle import mask_or_empty
from env.types import Answer, Select, Task, Trajectory, VideoRef
from policy.vlm.batch import ALIKE, Batch, TokenSequence, collate, pack, to_sequence
from rl.sft.context import StageContext
from rl.sft.token_weights import TokenWeights


@dataclass(frozen=True)
class Sequences:
    """The trajectories that a stage trains on, made when a batch needs them."""

    make: Callable[[int], Trajectory]  # of a row, from 0 to num_rows - 1
    make_text_only: Callable[[int], Trajectory]  # of a row, without frames
    num_rows: int


@dataclass(frozen=True)
class SftBatch:
    """One collated batch: sequences, weights of their tokens, and the target mask at each [SEG]."""

    batch: Batch
    token_weights_BL: Tensor
    targets: list[tuple[int, VideoRef, int]]  # (row of prompts, video, frame index)
    gold: list[np.ndarray]  # bool [H, W] per target
    captions: dict[int, str]  # row of prompts -> caption


class SftCollator:
    """Row indices to `SftBatch`es: the first `stage.batch_size` rows with frames, the others text only.

    The frames whose masks are supervised at a [SEG] are sampled by a generator of each row, so that they are the same
    however the rows are split into batches. `cold_start.max_batch_tokens` bounds the padded tokens of a batch.
    """

    def __init__(self, context: StageContext, sequences: Sequences):
        self.policy = context.policy
        self.sequences = sequences
        self.frames = context.frames
        self.num_mask_frames = context.config.cold_start.mask_frames
        self.batch_size = context.stage.batch_size
        self.weights = TokenWeights(context.policy.chat, context.stage.decision_weight)
        self.seed = context.config.seed
        self.max_tokens = context.config.cold_start.max_batch_tokens

    def __call__(self, rows: list[dict[str, int]]) -> dict[str, list[SftBatch]]:
        """Return the batches of one step under the key "batches"."""
        indices = [row["index"] for row in rows]
        rngs = np.random.default_rng([self.seed, *indices]).spawn(len(indices))
        shown = [self.sequences.make(index) for index in indices[: self.batch_size]]
        text_only = [self.sequences.make_text_only(index) for index in indices[self.batch_size :]]
        count = len(shown)
        return {"batches": [*self.batches(shown, rngs[:count]), *self.batches(text_only, rngs[count:])]}

    def batches(self, trajectories: Sequence[Trajectory], rngs: Sequence[np.random.Generator]) -> list[SftBatch]:
        """Return batches of sequences of similar length; in a single batch a quarter would be padding."""
        if not trajectories:
            return []
        sequences = [to_sequence(trajectory, self.policy.chat, self.policy.layout) for trajectory in trajectories]
        lengths = [len(sequence) for sequence in sequences]
        pieces = pack(lengths, self.max_tokens or len(lengths) * max(lengths), least_share=ALIKE)
        parts = [[(trajectories[at], sequences[at], rngs[at]) for at in piece] for piece in pieces]
        return [self.batch(*zip(*part, strict=True)) for part in parts]

    def batch(
        self,
        trajectories: Sequence[Trajectory],
        sequences: Sequence[TokenSequence],
        rngs: Sequence[np.random.Generator],
    ) -> SftBatch:
        """Return one batch of all trajectories.

        Args:
            trajectories: B trajectories.
            sequences: The same as token ids, in the same order.
            rngs: A generator for each, which samples the frames whose masks are supervised.
        """
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
                    prompt_row += 1  # the target is not identified yet: a mask here would train the policy to guess
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


def _is_named(task: Task, text: str) -> bool:
    """Return whether a turn that zooms identifies the target already, in its text.

    It does where the query is a name, and not where the policy has to explore to find out. In data sets without names
    the text contains a fixed phrase as long as the target is not identified.
    """
    return not task.explore and (
        task.caption in text if task.caption else UNDECIDED not in text and UNCLEAR not in text
    )
