"""Rows with common prefixes, in two forwards, against Hugging Face's own forward over each row alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from configs.policy_schema import PolicyConfig, SamConfig
from env.types import FrameRef, VideoRef
from policy.videoseg.checkpoint import build_small
from policy.videoseg.model import SegPolicy
from policy.vlm.batch import Batch, TokenSequence, collate
from policy.vlm.shared_prefix import hidden_states
from tests.helpers.closeness import (
    BACKWARD,
    FORWARD,
    assert_close_tensors,
    assert_close_to_scale,
    relative_difference,
)

CONFIG = PolicyConfig(
    vocab_size=420, hidden=64, layers=3, vision_hidden=32, sam=SamConfig(image_size=64, hidden=32, embed=16)
)
SIDES = ((32, 32), (64, 32), (32, 64), (64, 64))  # of frames, by number
VIDEOS = [VideoRef("/data", name, (), 40, 64, 64) for name in ("a", "b", "c")]


class Noise:
    """Pixels made up from the video's name and the frame's index."""

    def pixels(self, video: VideoRef, frame: FrameRef) -> np.ndarray:
        seed = [ord(video.path[-1]), frame.frame_idx]
        return np.random.default_rng(seed).integers(0, 256, (frame.height, frame.width, 3), dtype=np.uint8)

    def full(self, video: VideoRef, frame_idx: int) -> np.ndarray:
        raise NotImplementedError


@pytest.fixture(scope="module")
def policy() -> SegPolicy:
    return build_small(CONFIG, ["the red circle moves left", "frame 12"] * 4, seed=0)


def row(
    policy: SegPolicy, video: int, first: list[int], actions: list[int], later: list[int], salt: int
) -> TokenSequence:
    """`first` frames, an action of `actions[0]` tokens, then a frame of `later` before each further action."""
    rng = np.random.default_rng(salt)
    chat, layout = policy.chat, policy.layout
    ids, mask, frames = list(chat.encode("the red circle " * (1 + video))), [], []

    def show(number: int) -> None:
        height, width = SIDES[number % len(SIDES)]
        frames.append(FrameRef(number, width, height, "strip"))
        ids.extend([*chat.encode("<|vision_start|>"), *[chat.image_pad_id] * layout.num_tokens(height, width)])
        ids.extend(chat.encode("<|vision_end|>"))

    for number in first:
        show(number)
    for turn, length in enumerate(actions):
        if turn:
            show(later[turn - 1])
        mask += [False] * (len(ids) - len(mask))
        ids += rng.choice(chat.encode("the red circle moves left"), length).tolist()
        mask += [True] * length
    turns = tuple(0 if written else -1 for written in mask)
    return TokenSequence(VIDEOS[video], tuple(frames), tuple(ids), tuple(mask), turns, (), (), len(first))


def rows(policy: SegPolicy) -> list[TokenSequence]:
    """Siblings of two tasks, mixed, and a row that is alone; one task shows nothing at first."""
    return [
        row(policy, 0, [1, 2], [7], [], 1),
        row(policy, 1, [], [4, 9], [3], 2),
        row(policy, 0, [1, 2], [3, 5, 11], [8, 3], 3),
        row(policy, 2, [0], [6], [], 4),
        row(policy, 1, [], [12], [], 5),
        row(policy, 0, [1, 2], [20], [], 6),
    ]


def batch_of(policy: SegPolicy, sequences: list[TokenSequence]) -> Batch:
    return collate(sequences, policy.chat, policy.layout, Noise(), torch.device("cpu"))


def alone(policy: SegPolicy, sequence: TokenSequence) -> torch.Tensor:
    """[L, D] by Hugging Face, one row."""
    batch = batch_of(policy, [sequence])
    return policy.vlm.model(
        input_ids=batch.input_ids_BL,
        attention_mask=batch.attention_mask_BL,
        pixel_values=batch.pixel_values,
        image_grid_thw=batch.image_grid_thw,
        mm_token_type_ids=batch.image_mask_BL,
    ).last_hidden_state[0]


@pytest.fixture
def taken(policy: SegPolicy) -> Iterator[list[tuple[int, int]]]:
    """(rows, columns) of every forward of the language model."""
    shapes: list[tuple[int, int]] = []
    hook = policy.vlm.model.language_model.layers[0].register_forward_pre_hook(
        lambda module, inputs: shapes.append(tuple(inputs[0].shape[:2]))
    )
    yield shapes
    hook.remove()


def test_states_equal_those_of_each_row_alone(policy: SegPolicy, taken: list[tuple[int, int]]):
    sequences = rows(policy)
    with torch.no_grad():
        shared = hidden_states(policy.vlm.model, batch_of(policy, sequences))
        begun, followed = taken
        assert (begun[0], followed[0]) == (3, 6), "three beginnings, six rows"
        assert begun[1] + followed[1] < 2 * max(map(len, sequences))
        for states, sequence in zip(shared, sequences, strict=True):
            assert_close_to_scale(states[: len(sequence)], alone(policy, sequence), FORWARD)
        other = replace(sequences[0], ids=(sequences[0].ids[1], *sequences[0].ids[1:]))
        planted, last = alone(policy, other)[-1], alone(policy, sequences[0])[-1]
        assert relative_difference(planted, last) > 10 * FORWARD, "one wrong token must show in the last state"


def test_gradients_equal_those_of_each_row_alone(policy: SegPolicy):
    sequences = rows(policy)
    generator = torch.Generator().manual_seed(7)
    weights = [torch.randn(len(sequence), CONFIG.hidden, generator=generator) for sequence in sequences]
    found = []
    for is_shared in (True, False):
        policy.zero_grad()
        if is_shared:
            states = hidden_states(policy.vlm.model, batch_of(policy, sequences))
        else:
            states = [alone(policy, sequence) for sequence in sequences]
        terms = [(at[: len(weight)] * weight).sum() for at, weight in zip(states, weights, strict=True)]
        torch.stack(terms).sum().backward()
        found.append(
            {name: tensor.grad.clone() for name, tensor in policy.vlm.named_parameters() if tensor.grad is not None}
        )
    shared, plain = found
    assert any("visual" in name for name in shared)
    assert_close_tensors(shared, plain, BACKWARD)


def test_one_forward_where_nothing_is_alike(policy: SegPolicy, taken: list[tuple[int, int]]):
    sequences = [row(policy, 0, [1], [7], [], 1), row(policy, 0, [2], [7], [], 1), row(policy, 1, [1], [7], [], 1)]
    with torch.no_grad():
        hidden_states(policy.vlm.model, batch_of(policy, sequences))
    assert len(taken) == 1


def test_one_forward_where_activations_are_recomputed(taken: list[tuple[int, int]]):
    policy = build_small(CONFIG, ["the red circle moves left", "frame 12"] * 4, seed=0)
    sequences = rows(policy)
    with torch.no_grad():
        wanted = hidden_states(policy.vlm.model, batch_of(policy, sequences))
    policy.recompute_activations()
    states = hidden_states(policy.vlm.model, batch_of(policy, sequences))
    states.sum().backward()
    for row_states, row_wanted, sequence in zip(states, wanted, sequences, strict=True):
        assert_close_to_scale(row_states[: len(sequence)], row_wanted[: len(sequence)], FORWARD)


def test_rows_of_two_videos_share_nothing_although_text_and_frames_are_named_alike(
    policy: SegPolicy, taken: list[tuple[int, int]]
):
    one = row(policy, 0, [1, 2], [7], [], 1)
    sequences = [one, replace(one, video=VIDEOS[1]), one]
    with torch.no_grad():
        shared = hidden_states(policy.vlm.model, batch_of(policy, sequences))
        assert taken[0][0] == 2, "a beginning of each video"
        for states, sequence in zip(shared, sequences, strict=True):
            assert_close_to_scale(states[: len(sequence)], alone(policy, sequence), FORWARD)
    assert relative_difference(shared[0][: len(one)], shared[1][: len(one)]) > 10 * FORWARD
