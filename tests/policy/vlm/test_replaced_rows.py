"""Vectors in place of token embeddings or in front of a sequence, against forwards that read the tokens themselves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from configs.policy_schema import PolicyConfig, SamConfig
from env.types import FrameRef, VideoRef
from policy.videoseg.checkpoint import build_small
from policy.videoseg.model import SegPolicy
from policy.vlm.batch import Batch, ReplacedRows, TokenSequence, collate, put_in_front, soft_prompt

CONFIG = PolicyConfig(
    vocab_size=420, hidden=64, layers=2, vision_hidden=32, sam=SamConfig(image_size=64, hidden=32, embed=16)
)


class Noise:
    """Pixels made up from the frame's index."""

    def pixels(self, video: VideoRef, frame: FrameRef) -> np.ndarray:
        shape = (frame.height, frame.width, 3)
        return np.random.default_rng(frame.frame_idx).integers(0, 256, shape, dtype=np.uint8)

    def full(self, video: VideoRef, frame_idx: int) -> np.ndarray:
        raise NotImplementedError


@pytest.fixture(scope="module")
def policy() -> SegPolicy:
    return build_small(CONFIG, ["the red circle moves left", "frame 12"] * 4, seed=0)


def sequences(policy: SegPolicy) -> list[TokenSequence]:
    """Two rows with a common prefix, with an image, and end in an action with a [SEG] each."""
    chat = policy.chat
    pads = [chat.image_pad_id] * policy.layout.num_tokens(32, 64)
    start = [*chat.encode("the red<|vision_start|>"), *pads, *chat.encode("<|vision_end|> circle")]
    rows = []
    for text in ("moves left [SEG]", "moves [SEG] left left left"):
        action = chat.action_ids(text)
        ids = (*start, *action)
        mask = (False,) * len(start) + (True,) * len(action)
        turns = (-1,) * len(start) + (0,) * len(action)
        frames = (FrameRef(5, 64, 32, "strip"),)
        at = ids.index(chat.seg_id)
        rows.append(TokenSequence(VideoRef("/d", "v", (), 9, 64, 64), frames, ids, mask, turns, (at,), (0,), 1))
    return rows


def batch_of(policy: SegPolicy, rows: list[TokenSequence]) -> Batch:
    return collate(rows, policy.chat, policy.layout, Noise(), torch.device("cpu"))


def embedding(policy: SegPolicy) -> torch.Tensor:
    return policy.vlm.model.language_model.embed_tokens.weight.detach()


def swapped(policy: SegPolicy) -> tuple[list[TokenSequence], ReplacedRows]:
    """The rows with other tokens at three positions, and the replacement that undoes it."""
    rows, places = sequences(policy), [(0, 0), (1, -2), (1, -1)]
    wanted = [rows[row].ids[at] for row, at in places]
    other = policy.chat.encode(" frame")[0]
    changed = [list(row.ids) for row in rows]
    for row, at in places:
        assert changed[row][at] != other
        changed[row][at] = other
    columns = [at % len(rows[row]) for row, at in places]
    replaced = ReplacedRows(embedding(policy)[wanted], torch.tensor([row for row, _ in places]), torch.tensor(columns))
    return [replace(row, ids=tuple(ids)) for row, ids in zip(rows, changed, strict=True)], replaced


@torch.no_grad()
def test_a_replaced_row_equals_its_token(policy: SegPolicy):
    rows, replaced = swapped(policy)
    batch = batch_of(policy, rows)
    wanted = [policy(batch_of(policy, [row])).prompts_MC for row in sequences(policy)]
    found = policy(replace(batch, replaced=replaced))
    assert (found.prompts_MC - torch.cat(wanted)).abs().max() < 1e-5 * torch.cat(wanted).abs().max()
    left = policy(batch)
    assert (found.prompts_MC - left.prompts_MC).abs().max() > 1e-3, "without the replacement the states differ"


@torch.no_grad()
def test_a_replaced_row_equals_its_token_bit_by_bit(policy: SegPolicy):
    """The same forward on whole rows: one row at a time, so that no prefix is shared."""
    rows, replaced = swapped(policy)
    for row, (changed, wanted) in enumerate(zip(rows, sequences(policy), strict=True)):
        of_row = replaced.rows_M == row
        part = ReplacedRows(
            replaced.vectors_MD[of_row], torch.zeros(int(of_row.sum()), dtype=torch.long), replaced.columns_M[of_row]
        )
        found = policy(replace(batch_of(policy, [changed]), replaced=part))
        plain = policy(batch_of(policy, [wanted]))
        assert torch.equal(found.prompts_MC, plain.prompts_MC)
        assert torch.equal(found.text_states_PD, plain.text_states_PD)
        assert torch.equal(found.entropy_P, plain.entropy_P)


@torch.no_grad()
def test_rows_in_front_equal_tokens_in_front(policy: SegPolicy):
    """Positions, those of images too, and log-probs: all as if the tokens stood there."""
    tokens = policy.chat.encode("frame 12 left")
    filler = policy.chat.pad_id
    wanted_rows = [
        replace(put_in_front(row, len(tokens), filler), ids=(*tokens, *row.ids)) for row in sequences(policy)
    ]
    rows = [put_in_front(row, len(tokens), filler) for row in sequences(policy)]
    found = policy(replace(batch_of(policy, rows), replaced=soft_prompt(embedding(policy)[tokens], len(rows))))
    for at, row in enumerate(wanted_rows):
        alone = policy(batch_of(policy, [row]))
        assert (found.prompts_MC[at] - alone.prompts_MC[0]).abs().max() < 1e-5 * alone.prompts_MC.abs().max()
        logprobs = found.logprobs_BL[at, : len(row)]
        assert (logprobs - alone.logprobs_BL[0]).abs().max() < 1e-5 * alone.logprobs_BL.abs().max()
        whole = policy(replace(batch_of(policy, rows[at : at + 1]), replaced=soft_prompt(embedding(policy)[tokens], 1)))
        assert torch.equal(whole.prompts_MC, alone.prompts_MC)
    wrong = policy(replace(batch_of(policy, rows), replaced=soft_prompt(embedding(policy)[tokens[::-1]], len(rows))))
    assert (wrong.prompts_MC - found.prompts_MC).abs().max() > 1e-3


def test_gradients_reach_the_rows(policy: SegPolicy):
    """By central differences of the action's log-probs."""
    vectors_SD = torch.randn(3, CONFIG.hidden, generator=torch.Generator().manual_seed(1)).requires_grad_()
    rows = [put_in_front(row, 3, policy.chat.pad_id) for row in sequences(policy)]
    batch = batch_of(policy, rows)

    def total(vectors: torch.Tensor) -> torch.Tensor:
        return policy(replace(batch, replaced=soft_prompt(vectors, len(rows)))).logprobs_BL.sum()

    total(vectors_SD).backward()
    assert vectors_SD.grad is not None
    way_SD = torch.randn(3, CONFIG.hidden, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        slope = (total(vectors_SD + 1e-2 * way_SD) - total(vectors_SD - 1e-2 * way_SD)) / 2e-2
    expected = (vectors_SD.grad * way_SD).sum()
    assert vectors_SD.grad.abs().amax(1).min() > 1e-4, "every row gets a gradient"
    assert (slope - expected).abs() < 0.02 * expected.abs()


@torch.no_grad()
def test_the_embedding_layer_is_left_as_it_was(policy: SegPolicy):
    batch = batch_of(policy, sequences(policy))
    before = policy(batch)
    with pytest.raises(IndexError):
        policy(replace(batch, replaced=ReplacedRows(torch.zeros(1, 64), torch.tensor([9]), torch.tensor([0]))))
    after = policy(batch)
    assert torch.equal(before.logprobs_BL, after.logprobs_BL)
