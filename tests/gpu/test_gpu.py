"""The policy, SAM 2 and the learner compute on a GPU what they compute on the CPU. Needs neither Ray nor vLLM.

python -m pytest tests/gpu          # on a machine with CUDA; skipped elsewhere
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from configs.load import load_config
from configs.schema import RunConfig
from cot_data.datasets import load_tasks
from cot_data.traces.dialogue import to_trajectory
from cot_data.traces.write import write_trace
from env.frames import FrameCache, FrameCaches
from env.types import Action, Trajectory
from policy import SHIPPED
from policy.videoseg.checkpoint import load_policy
from policy.videoseg.model import SegPolicy
from policy.videoseg.tracking import with_masks
from policy.vlm.batch import collate, to_sequence
from rl.learner.learner import LocalLearner
from tests.helpers.rl_parts import write_shapes

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and VIDEOSEG_GPU=1")

FRAMES = FrameCaches(FrameCache(), FrameCache())
SETTINGS = (
    "grpo.kl_coef=0.05",
    "grpo.calibration_coef=0.7",
    "grpo.mask_coef=0.2",
    "grpo.freeze_sam=false",
    "grpo.warmup_steps=0",
    "grpo.max_batch_tokens=100000",
    "policy.freeze_vision=false",
)
FLOAT32 = 2e-3  # relative; sums of thousands of float32 products in another order differ by far less
BFLOAT16 = 5e-2  # relative; bfloat16 keeps 8 bits, and errors add up over the layers


@pytest.fixture(autouse=True)
def full_float32() -> Iterator[None]:
    """TensorFloat-32 off, which cuDNN uses by default and which keeps 10 bits."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> list[Trajectory]:
    """Traces of one video as trajectories, each with other words, as if the policy had written them."""
    tasks = list(load_tasks("mevis", write_shapes(tmp_path_factory.mktemp("gpu"), videos=1)))[:3]
    chat, config = load_policy(SHIPPED).chat, load_config("tiny").env
    items = [
        to_trajectory(write_trace(task, config, np.random.default_rng(0), "brief"), task, config) for task in tasks
    ]
    for turn in (turn for item in items for turn in item.turns):
        ids = tuple(chat.action_ids(turn.action.text))
        turn.action = Action(turn.action.text, ids, (-1.0,) * len(ids), weights_version=0)
    return items


def policy_on(device: str, config: RunConfig | None = None) -> SegPolicy:
    """The shipped policy on one device."""
    return load_policy(SHIPPED, config.policy if config else None).to(device)


def relative(found: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest value that is expected."""
    return float((found.cpu() - expected.cpu()).abs().max() / expected.cpu().abs().max())


def outputs(policy: SegPolicy, items: Sequence[Trajectory]) -> tuple[Tensor, Tensor]:
    """Log-probs of the actions and projected [SEG] states."""
    sequences = [to_sequence(item, policy.chat, policy.layout) for item in items]
    with torch.no_grad():
        output = policy(collate(sequences, policy.chat, policy.layout, FRAMES.policy, policy.device))
    return output.logprobs_BL.float(), output.prompts_MC.float()


def test_log_probs_and_prompts_are_those_of_the_cpu(group: list[Trajectory]):
    expected = outputs(policy_on("cpu"), group)
    for found, wanted in zip(outputs(policy_on("cuda"), group), expected, strict=True):
        assert relative(found, wanted) < FLOAT32


def test_bfloat16_stays_near_float32(group: list[Trajectory]):
    policy = policy_on("cuda")
    expected = outputs(policy, group)
    policy.compute_dtype = torch.bfloat16
    for found, wanted in zip(outputs(policy, group), expected, strict=True):
        assert 0 < relative(found, wanted) < BFLOAT16


def test_tracked_masks_are_those_of_the_cpu(group: list[Trajectory]):
    tracked = []
    for device in ("cpu", "cuda"):
        policy = policy_on(device)
        tracked.append(list(with_masks(policy, copy.deepcopy(group), FRAMES)))
    on_cpu, on_gpu = tracked
    same = [a.masks[at] == b.masks[at] for a, b in zip(on_cpu, on_gpu, strict=True) for at in a.masks]
    assert np.mean(same) > 0.95  # a pixel at logit 0 may fall either way


def learn(device: str, group: list[Trajectory], *overrides: str) -> tuple[dict[str, float], Tensor]:
    """Metrics of one step, and the change of all weights that it trains."""
    config = load_config("tiny", [*SETTINGS, *overrides])
    policy = policy_on(device, config)
    learner = LocalLearner(policy, config, FRAMES)

    def weights() -> Tensor:
        return torch.cat([parameter.detach().cpu().flatten() for parameter in learner.optimizer.parameters])

    before = weights()

    def assign(members: Sequence[Trajectory]) -> None:
        for member, advantage in zip(members, (1.0, -0.5, 0.25), strict=True):
            member.advantage = advantage

    metrics = learner.learn([copy.deepcopy(group)], assign)
    return metrics, weights() - before


def test_a_step_of_the_learner_is_that_of_the_cpu(group: list[Trajectory]):
    expected, change = learn("cpu", group)
    found, change_on_gpu = learn("cuda", group)
    assert found.keys() == expected.keys()
    for name in ("loss/policy", "loss/masks", "optim/grad_norm", "policy/entropy"):
        assert found[name] == pytest.approx(expected[name], rel=FLOAT32, abs=1e-5), name
    # Adam's first step moves every weight by about its rate: signs of tiny gradients may differ, but few.
    cosine = torch.nn.functional.cosine_similarity(change, change_on_gpu, dim=0)
    assert cosine > 0.99


def test_recomputed_activations_give_the_same_step(group: list[Trajectory]):
    expected, _ = learn("cuda", group)
    found, _ = learn("cuda", group, "policy.recompute_activations=true")
    assert found["optim/grad_norm"] == pytest.approx(expected["optim/grad_norm"], rel=FLOAT32)
