"""Run the worked examples of the documentation, registered in the way that their pages describe."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from configs.load import load_config
from configs.schema import GrpoConfig
from cot_data.datasets import DATASETS, load_tasks
from cot_data.faults import Faults
from docs.examples.data_set import load_folders
from docs.examples.loss import SAPO, gated
from docs.examples.reward import key_frame_size
from docs.examples.sampler_engine import UniformSampler, build_uniform
from env.errors import DataError
from env.rle import decode
from env.types import StopReason
from policy import SHIPPED
from policy.engines import SAMPLERS
from policy.engines.base import GenerationRequest
from rewards import REWARDS, score
from rl.learner.policy_loss import LOSSES
from tests.helpers.reward_cases import MALFORMED, NO_TARGET, answer, square, trajectory

# The target grows from 4 to 16 pixels over frames 2 to 4.
GROWING = (None, None, square(side=2), square(side=3), square(side=4), None, None, None, None, None)


@pytest.mark.parametrize(
    ("key_frame", "expected"),
    [(2, 4 / 16), (3, 9 / 16), (4, 1.0), (5, 0.0)],
    ids=["small", "larger", "largest", "absent"],
)
def test_the_reward_is_the_relative_area(key_frame: int, expected: float):
    assert key_frame_size(trajectory([answer(2, 5, key_frame)], gold=GROWING)) == pytest.approx(expected)


def test_the_reward_without_an_answer_a_target_or_turns():
    assert key_frame_size(trajectory(["noise"], MALFORMED, gold=GROWING)) == 0.0
    assert key_frame_size(trajectory([answer()], gold=NO_TARGET)) is None
    assert key_frame_size(trajectory([], StopReason.SINGLE_PASS, gold=GROWING)) is None


def test_the_reward_counts_under_its_name(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(REWARDS, "key_frame_size", key_frame_size)
    config = load_config("tiny", ["rewards={format: 0.5, key_frame_size: 2.0}"])
    scores = score(trajectory([answer(2, 5, 3)], gold=GROWING), config.rewards)
    assert scores.breakdown == {"format": 1.0, "key_frame_size": 9 / 16}
    assert scores.total == pytest.approx(0.5 + 2 * 9 / 16)


def write_folders(root: Path) -> None:
    """Two videos of three frames; the target is a 4 x 4 square on the first two."""
    for video in ("a", "b"):
        for name in ("frames", "masks"):
            (root / video / name).mkdir(parents=True)
        for t in range(3):
            Image.new("RGB", (16, 8)).save(root / video / "frames" / f"{t:05d}.jpg")
        mask_HW = np.zeros((8, 16), np.uint8)
        mask_HW[2:6, 4:8] = 255
        for t in range(2):
            Image.fromarray(mask_HW).save(root / video / "masks" / f"{t:05d}.png")
        (root / video / "query.txt").write_text(f"the square of {video}\n")


def test_the_data_set_is_read_under_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_folders(tmp_path / "mine")
    monkeypatch.setitem(DATASETS, "folders", load_folders)
    tasks = load_tasks("folders", tmp_path / "mine")
    assert [(task.task_id, task.expression) for task in tasks] == [
        ("mine/a/0", "the square of a"),
        ("mine/b/0", "the square of b"),
    ]
    task = tasks[0]
    assert (task.video.num_frames, task.video.height, task.video.width) == (3, 8, 16)
    assert task.gold[2] is None
    assert task.gold[0] is not None
    mask_HW = decode(task.gold[0])
    assert mask_HW[2:6, 4:8].all()
    assert mask_HW.sum() == 16


def test_a_fault_of_the_data_set_is_raised_or_noted(tmp_path: Path):
    write_folders(tmp_path)
    (tmp_path / "a" / "query.txt").unlink()
    with pytest.raises(DataError, match="expected a text file with the sentence"):
        load_folders(tmp_path)
    faults = Faults(keep=True)
    assert [task.task_id for task in load_folders(tmp_path, faults)] == [f"{tmp_path.name}/b/0"]
    assert len(faults.found) == 1


def test_the_loss_has_the_gradient_of_grpo_on_policy_and_a_smaller_one_far_from_it():
    advantages_B1 = torch.tensor([[2.0], [-1.0]])
    slopes = {}
    for name, loss in {"sapo": SAPO, "grpo": LOSSES["grpo"]}.items():
        for ratio in (1.0, 1.15, 5.0):
            ratio_BL = torch.full((2, 3), ratio, requires_grad=True)
            token_loss_BL, clipped_BL = loss.surrogate(ratio_BL, ratio_BL.log(), advantages_B1, GrpoConfig())
            assert token_loss_BL.shape == clipped_BL.shape == (2, 3)
            token_loss_BL.sum().backward()
            assert ratio_BL.grad is not None
            slopes[name, ratio] = ratio_BL.grad[:, 0].tolist()
    assert slopes["sapo", 1.0] == pytest.approx(slopes["grpo", 1.0])
    assert slopes["sapo", 1.15] == pytest.approx(slopes["grpo", 1.15], rel=0.02)
    # Far away the gate has closed: 4 sigmoid(4) (1 - sigmoid(4)) of the slope is left for the good token.
    closed = 1 / (1 + math.exp(-4))
    assert slopes["sapo", 5.0][0] == pytest.approx(-2.0 * 4 * closed * (1 - closed), rel=1e-5)


def test_the_loss_is_found_under_its_name(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(LOSSES, "sapo", SAPO)
    assert LOSSES[load_config("tiny", ["grpo.loss=sapo"]).grpo.loss].surrogate is gated


def request(name: str, seed: int) -> GenerationRequest:
    return GenerationRequest(name, (1, 2, 3), (), max_tokens=12, temperature=1.0, seed=seed)


def test_the_engine_is_built_under_its_name_and_keeps_the_promises(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(SAMPLERS, "uniform", build_uniform)
    config = load_config("tiny", ["sampler.kind=uniform"])
    engine = SAMPLERS[config.sampler.kind](config.sampler, SHIPPED / "vlm", 64, 0)
    assert isinstance(engine, UniformSampler)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        engine.submit(request(name, seed))
    with pytest.raises(ValueError, match="already in flight"):
        engine.submit(request("a", 1))
    first, second, third = engine.step()
    assert not engine.has_work()
    assert first.token_ids == second.token_ids != third.token_ids
    assert len(first.logprobs) == len(first.token_ids) <= 12
    assert all(math.exp(logprob) * engine._num_tokens == pytest.approx(1.0) for logprob in first.logprobs)
    assert not set(first.token_ids) & set(engine._chat.banned_ids)


def test_the_engine_runs_episodes(micro, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Noise is malformed or endless, and a value all the same: no episode ends as an error."""
    from rl.predict import predict

    monkeypatch.setitem(SAMPLERS, "uniform", build_uniform)
    config = micro.config(tmp_path / "run", ["sampler.kind=uniform"])
    (video, *_) = sorted((micro.data / "JPEGImages").iterdir())
    found = predict(replace(config, seed=1), video, "the red shape", micro.policy, tmp_path / "out")
    assert found.stop_reason in (StopReason.MALFORMED, StopReason.TOO_LONG)
    assert found.turns[0].action.token_ids
