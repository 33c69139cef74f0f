"""Micro-batches, and the log-probs that scoring stores in trajectories and the objective reads back."""

from __future__ import annotations

import torch

from env.types import Action, Malformed, Observation, StopReason, Task, Trajectory, Turn, VideoRef
from policy.vlm.batch import ALIKE, Batch, TokenSequence
from rl.learner.gradient_norms import add_up
from rl.learner.micro_batch import Sample, Totals, num_padded_tokens, split_samples
from rl.learner.objective import at_actions, old_logprobs
from rl.learner.score_pass import fill_logprobs

VIDEO = VideoRef("/data", "video", (), 8, 32, 32)


def sample(name: str, *action_lengths: int, gap: int = 2) -> Sample:
    """Build an episode whose turns have `gap` observation tokens and then so many action tokens."""
    turn_idx: list[int] = []
    turns = []
    for number, length in enumerate(action_lengths):
        turn_idx += [-1] * gap + [number] * length
        logprobs = tuple(-0.1 * (number + 1) - 0.01 * at for at in range(length))
        action = Action("text", tuple(range(length)), logprobs, weights_version=0)
        turns.append(Turn(Observation(()), action, Malformed("no_answer", "")))
    task = Task(name, VIDEO, "the red circle", gold=())
    trajectory = Trajectory(name, task, 0, 0, turns=turns, stop_reason=StopReason.ANSWERED)
    mask = tuple(at >= 0 for at in turn_idx)
    return Sample(trajectory, TokenSequence(VIDEO, (), tuple(range(len(mask))), mask, tuple(turn_idx), (), ()))


def batch_of(samples: list[Sample]) -> Batch:
    """Build a padded batch without pixels, of which only the loss mask counts."""
    length = max(len(each.sequence) for each in samples)
    rows = [list(each.sequence.loss_mask) + [False] * (length - len(each.sequence)) for each in samples]
    mask_BL = torch.tensor(rows)
    zeros_BL = torch.zeros(mask_BL.shape, dtype=torch.long)
    return Batch(zeros_BL, zeros_BL, mask_BL, zeros_BL, None, None, tuple(each.sequence for each in samples))


def test_micro_batches_have_similar_lengths_and_a_limit():
    samples = [sample(str(length), length - 2) for length in (30, 12, 29, 11, 10, 28)]
    micro_batches = split_samples(samples, max_tokens=60)
    lengths = [[len(each.sequence) for each in micro_batch] for micro_batch in micro_batches]
    assert lengths == [[30, 29], [28], [12, 11, 10]]
    assert all(min(each) >= ALIKE * max(each) and len(each) * max(each) <= 60 for each in lengths)
    assert num_padded_tokens(micro_batches) == 60 + 28 + 36


def test_a_sample_above_the_limit_is_alone_and_one_without_turns_is_left_out():
    mute, long, short = sample("mute"), sample("long", 40), sample("short", 3)
    assert split_samples([mute, long, short], max_tokens=10) == [[long], [short]]
    assert split_samples([mute], max_tokens=10) == [] and num_padded_tokens([]) == 0


def test_stored_logprobs_are_read_back_at_the_same_tokens():
    samples = [sample("a", 3, 2), sample("b", 1)]
    batch = batch_of(samples)
    logprobs_BL = -torch.arange(1, 1 + batch.loss_mask_BL.numel()).float().view(batch.loss_mask_BL.shape)
    for row, each in enumerate(samples):
        fill_logprobs(each, logprobs_BL[row])
    assert samples[0].trajectory.turns[1].old_logprobs == (-8.0, -9.0), "behind 2 + 3 + 2 tokens"
    old_BL, sampling_BL = old_logprobs(samples, batch)
    assert torch.equal(old_BL, torch.where(batch.loss_mask_BL, logprobs_BL, 0.0))
    written = [value for each in samples for turn in each.trajectory.turns for value in turn.action.logprobs]
    assert torch.equal(sampling_BL, at_actions(torch.tensor(written), batch))
    assert torch.equal(sampling_BL != 0, batch.loss_mask_BL)


def test_counts_and_metrics_of_parts_add_up():
    assert Totals.over([Totals(5, 2, 3), Totals(7, 1, 0)]) == Totals(12, 3, 3)
    assert add_up([{"a": 1.0}, {"a": 0.5, "b": 2.0}, {}]) == {"a": 1.5, "b": 2.0}
