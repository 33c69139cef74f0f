"""Turn trajectories into learner inputs: one sequence of expanded ids per trajectory, and padded batches of them.

The cold start, the score pass and the gradient pass all use this module, so that they see the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from env.types import FrameRef, Trajectory, VideoRef
from policy.vlm.chat_tokens import ChatTokens, expand_image_pads
from policy.vlm.patches import PatchLayout

ALIKE = 0.8  # of the longest sequence in a batch: shorter ones go into another batch, to limit padding


class FrameSource(Protocol):
    """A source of pixels: `env.frames.FrameCache`, or its variant that hides them."""

    def pixels(self, video: VideoRef, frame: FrameRef) -> np.ndarray:
        """Return uint8 [H, W, 3] at the size that `frame` names."""
        ...

    def full(self, video: VideoRef, frame_idx: int) -> np.ndarray:
        """Return uint8 [H, W, 3] at native size."""
        ...


@dataclass(frozen=True)
class TokenSequence:
    """The token sequence of one trajectory.

    Example, two turns with observations o (frames expanded) and actions a: `ids = o o o a a o o a a`,
    `loss_mask = 0 0 0 1 1 0 0 1 1`, `turn_idx = - - - 0 0 - - 1 1` (-1 outside actions).
    """

    video: VideoRef
    frames: tuple[FrameRef, ...]
    ids: tuple[int, ...]  # [L]
    loss_mask: tuple[bool, ...]  # [L], True on action tokens
    turn_idx: tuple[int, ...]  # [L]
    seg_positions: tuple[int, ...]  # position of each [SEG] inside an action
    seg_turns: tuple[int, ...]  # the turn that each [SEG] belongs to
    first_frames: int = 0  # number of `frames` in the first observation

    def __len__(self) -> int:
        return len(self.ids)


def to_sequence(trajectory: Trajectory, chat: ChatTokens, layout: PatchLayout) -> TokenSequence:
    """Concatenate the ids of a trajectory's observations and actions; turns without ids are tokenised here.

    Args:
        trajectory: The trajectory; sampled turns have ids, recorded ones may have text only.
        chat: Tokenizer and chat markers.
        layout: Patch sizes, for the number of tokens per frame.

    Raises:
        ValueError: The numbers of image pads and frames differ, or an action has an image pad.
    """
    ids: list[int] = []
    turn_idx: list[int] = []
    frames: list[FrameRef] = []
    for number, turn in enumerate(trajectory.turns):
        observation_ids = turn.observation_ids or chat.observation_ids(turn.observation, first=number == 0)
        counts = [layout.num_tokens(frame.height, frame.width) for frame in turn.observation.frames]
        expanded = expand_image_pads(observation_ids, counts, chat.image_pad_id)
        action_ids = turn.action.token_ids or chat.action_ids(turn.action.text)
        if chat.image_pad_id in action_ids:
            raise ValueError(f"{trajectory.trajectory_id}, turn {number}: the action holds an image pad")
        ids += [*expanded, *action_ids]
        turn_idx += [-1] * len(expanded) + [number] * len(action_ids)
        frames += turn.observation.frames
    segs = [at for at, token in enumerate(ids) if token == chat.seg_id and turn_idx[at] >= 0]
    return TokenSequence(
        video=trajectory.task.video,
        frames=tuple(frames),
        ids=tuple(ids),
        loss_mask=tuple(number >= 0 for number in turn_idx),
        turn_idx=tuple(turn_idx),
        seg_positions=tuple(segs),
        seg_turns=tuple(turn_idx[at] for at in segs),
        first_frames=len(trajectory.turns[0].observation.frames) if trajectory.turns else 0,
    )


def put_in_front(sequence: TokenSequence, count: int, filler_id: int) -> TokenSequence:
    """Return `sequence` behind `count` tokens that are no action, whose embeddings `soft_prompt` then replaces.

    Args:
        sequence: The sequence, whose positions all grow by `count`.
        count: Number of tokens in front.
        filler_id: Any text token: its embedding is not used.
    """
    return replace(
        sequence,
        ids=(filler_id,) * count + sequence.ids,
        loss_mask=(False,) * count + sequence.loss_mask,
        turn_idx=(-1,) * count + sequence.turn_idx,
        seg_positions=tuple(at + count for at in sequence.seg_positions),
    )


@dataclass(frozen=True, eq=False)
class ReplacedRows:
    """Vectors that the language model reads instead of the embeddings of M text tokens; gradients reach them."""

    vectors_MD: Tensor
    rows_M: Tensor  # the batch's row of each vector
    columns_M: Tensor  # its position there, which must not be one of an image


def soft_prompt(vectors_SD: Tensor, num_rows: int) -> ReplacedRows:
    """Return the replacement of the first S positions of every row by the same vectors (see `put_in_front`)."""
    count, device = len(vectors_SD), vectors_SD.device
    rows_M = torch.arange(num_rows, device=device).repeat_interleave(count)
    return ReplacedRows(vectors_SD.repeat(num_rows, 1), rows_M, torch.arange(count, device=device).repeat(num_rows))


@dataclass(frozen=True)
class Batch:
    """Sequences padded on the right, and the frames of all rows in text order."""

    input_ids_BL: Tensor
    attention_mask_BL: Tensor
    loss_mask_BL: Tensor  # bool
    image_mask_BL: Tensor  # int, 1 on image pads
    pixel_values: Tensor | None  # [patches of all frames, patch features]; None where no frame is shown
    image_grid_thw: Tensor | None  # [frames, 3]
    sequences: tuple[TokenSequence, ...]
    replaced: ReplacedRows | None = None  # in place of embeddings of input_ids_BL


def collate(
    sequences: Sequence[TokenSequence], chat: ChatTokens, layout: PatchLayout, frames: FrameSource, device: torch.device
) -> Batch:
    """Pad sequences on the right and read the pixels of their frames.

    Args:
        sequences: The B rows.
        chat: Ids of padding and image pads.
        layout: Patch sizes.
        frames: Source of the pixels.
        device: Device of the batch's tensors.
    """
    length = max(len(sequence) for sequence in sequences)
    input_ids_BL = torch.full((len(sequences), length), chat.pad_id, dtype=torch.long)
    attention_mask_BL = torch.zeros(len(sequences), length, dtype=torch.long)
    loss_mask_BL = torch.zeros(len(sequences), length, dtype=torch.bool)
    for row, sequence in enumerate(sequences):
        input_ids_BL[row, : len(sequence)] = torch.tensor(sequence.ids)
        attention_mask_BL[row, : len(sequence)] = 1
        loss_mask_BL[row, : len(sequence)] = torch.tensor(sequence.loss_mask)
    shown = [(sequence.video, frame) for sequence in sequences for frame in sequence.frames]
    patches = [layout.patchify(frames.pixels(video, frame)) for video, frame in shown]
    grids = [layout.grid(frame.height, frame.width) for _, frame in shown]
    return Batch(
        input_ids_BL.to(device),
        attention_mask_BL.to(device),
        loss_mask_BL.to(device),
        (input_ids_BL == chat.image_pad_id).int().to(device),
        torch.from_numpy(np.concatenate(patches)).to(device) if patches else None,
        torch.tensor(grids, dtype=torch.long, device=device) if patches else None,
        tuple(sequences),
    )


def pack(
    lengths: Sequence[int], max_tokens: int, counts: Sequence[int] | None = None, least_share: float = 0.0
) -> list[list[int]]:
    """Group items, longest first, into batches of limited size.

    Args:
        lengths: Tokens of each item's longest row.
        max_tokens: Most padded tokens of a batch; a longer item has a batch of its own.
        counts: Rows of each item; one each if not given.
        least_share: Least length of an item relative to the longest in its batch, to limit padding.

    Returns:
        Indices of the items in each batch.
    """
    counts = counts or [1] * len(lengths)
    batches: list[list[int]] = []
    num_rows = 0
    for item in sorted(range(len(lengths)), key=lambda item: -lengths[item]):
        longest = lengths[batches[-1][0]] if batches else 0
        if batches and (num_rows + counts[item]) * longest <= max_tokens and lengths[item] >= least_share * longest:
            batches[-1].append(item)
            num_rows += counts[item]
        else:
            batches.append([item])
            num_rows = counts[item]
    return batches
