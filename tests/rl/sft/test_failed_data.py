"""Damaged data and numbers that are not finite in the cold start: every stage leaves out what it must, no more."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from configs.schema import RunConfig, StageConfig
from env.errors import DataError
from policy.videoseg.checkpoint import load_policy
from policy.videoseg.model import SegPolicy
from rl.runtime.journal import read_metrics
from rl.runtime.skipped_updates import NotFiniteError
from rl.sft import trainer
from rl.sft.caption_prompts import CaptionPrompts
from rl.sft.context import StageContext
from rl.sft.loop import fit
from rl.sft.loss import sft_loss
from rl.sft.stages import STAGES
from rl.sft.unreadable import TooManyUnreadableError
from tests.helpers.damaged_data import copied, cut_frame, spoil_masks, tasks_with_masks_of
from tests.helpers.rl_parts import Micro
from tests.helpers.sft_parts import stage_context

STEPS = 4
SETTINGS = ("cold_start.log_every=1", "cold_start.max_failed_share=1.0")
KINDS = ("masks", "vision", "captions", "dialogue")
pytestmark = pytest.mark.timeout(600)


@dataclass
class Setup:
    micro: Micro
    data: Path
    out: Path

    def config(self, *more: str) -> RunConfig:
        root = f"data.train_root={self.data}"
        return self.micro.config(self.out, [*SETTINGS, root, *more])

    def context(self, kind: str, *more: str) -> StageContext:
        policy = load_policy(self.micro.policy.with_name("untrained") if kind == "vision" else self.micro.policy)
        prompts = CaptionPrompts(policy.chat, policy.sam.hidden_dim) if kind == "masks" else None
        stage = StageConfig(kind=kind, steps=STEPS, batch_size=4, mask_coef=0.5)
        return stage_context(policy, self.config(*more), stage, prompts)

    def run(self, context: StageContext) -> list[dict]:
        STAGES[context.stage.kind](context)
        return read_metrics(self.out / "metrics.jsonl")


@pytest.fixture
def setup(micro: Micro, tmp_path: Path) -> Setup:
    return Setup(micro, copied(micro.data, tmp_path / "data"), tmp_path / "out")


@pytest.mark.parametrize("kind", KINDS)
def test_frames_that_cannot_be_read_are_left_out(setup: Setup, kind: str, caplog: pytest.LogCaptureFixture):
    context = setup.context(kind)
    for frame_idx in range(num_frames(setup, 0)):
        cut_frame(setup.data, 0, frame_idx)
    rows = setup.run(context)
    assert rows[-1]["data/left_out"] > 0
    losses = [value for row in rows for name, value in row.items() if name.startswith("loss/")]
    assert len(losses) >= len(rows) - 1 and all(map(math.isfinite, losses)), "the other video is trained on"
    assert f"cold start, stage {kind}: a sample is left out" in caplog.text and ".jpg" in caplog.text


def num_frames(setup: Setup, video: int) -> int:
    return len(list(sorted((setup.data / "JPEGImages").iterdir())[video].iterdir()))


def test_masks_that_cannot_be_read_are_left_out(setup: Setup):
    unreadable = tasks_with_masks_of(setup.data, spoil_masks(setup.data, 0))
    context = setup.context("dialogue")
    assert all(name not in "".join(context.dataset.corpus()) for name in unreadable)
    assert setup.run(context)[-1]["data/left_out"] > 0
    named = setup.context("masks").dataset.named()
    assert named and all(any(masks) for each in named for _, masks in each.objects)


def test_a_frame_of_a_target_mask_alone_is_left_out(setup: Setup):
    """No trace shows these frames; the masks of [SEG] are on random ones."""
    context = setup.context("dialogue", "cold_start.mask_frames=3")
    shown = {
        (turn_frame.frame_idx, task.video.path)
        for row in range(len(context.dataset))
        for task in [context.dataset[row][1]]
        for turn in context.dataset.dialogue(row).turns
        for turn_frame in turn.observation.frames
    }
    videos = sorted({path for _, path in shown})
    cut = 0
    for video, path in enumerate(videos):
        for frame_idx in range(num_frames(setup, video)):
            if (frame_idx, path) not in shown and path == videos[0]:
                cut_frame(setup.data, video, frame_idx)
                cut += 1
    assert cut > 5
    rows = setup.run(context)
    assert rows[-1]["data/left_out"] > 0 and all("loss/tokens" in row for row in rows), "no step is lost"


def test_too_many_end_the_stage_with_one_sentence(setup: Setup):
    context = setup.context("masks", "cold_start.max_failed_share=0.2")
    for video in (0, 1):
        for frame_idx in range(num_frames(setup, video)):
            cut_frame(setup.data, video, frame_idx)
    with pytest.raises(TooManyUnreadableError, match=r"masks: 4 of 16 samples .*max_failed_share \(0\.2\).*\.jpg"):
        setup.run(context)


def test_without_damage_nothing_is_left_out(setup: Setup, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        rows = setup.run(setup.context("dialogue"))
    assert {(row["data/left_out"], row["optim/skipped"]) for row in rows} == {(0.0, 0.0)} and len(rows) == STEPS
    assert "left out" not in caplog.text


# ---- numbers ----


def spoil(policy: SegPolicy, step: int) -> None:
    """Make the gradient of one step NaN."""
    weight, seen = policy.vlm.model.language_model.norm.weight, []

    def hook(grad: torch.Tensor) -> torch.Tensor:
        seen.append(grad)
        return torch.full_like(grad, math.nan) if len(seen) == step + 1 else grad

    weight.register_hook(hook)


def test_a_gradient_that_is_not_finite_skips_its_step(setup: Setup, caplog: pytest.LogCaptureFixture):
    context = setup.context("dialogue")
    spoil(context.policy, 1)
    rows = setup.run(context)
    assert [row["optim/skipped"] for row in rows] == [0, 1, 1, 1]
    assert "loss/tokens" not in rows[1] and all("loss/tokens" in rows[at] for at in (0, 2, 3))
    assert "the gradient of vlm.model.language_model.norm.weight, from JPEGImages/" in caplog.text
    assert all(torch.isfinite(value).all() for value in context.policy.parameters())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_skips_its_step(setup: Setup, value: float, monkeypatch: pytest.MonkeyPatch):
    context, calls = setup.context("dialogue", "cold_start.max_batch_tokens=1024"), []

    def broken(context, batches, totals):
        loss, metrics = sft_loss(context, batches, totals)
        calls.append(batches)
        return (loss * value, metrics | {"loss/tokens": value}) if len(calls) == 1 else (loss, metrics)

    monkeypatch.setattr(trainer, "sft_loss", broken)
    before = {name: weight.clone() for name, weight in context.policy.state_dict().items()}
    rows = setup.run(context)
    assert rows[0]["optim/skipped"] == 1 and "loss/tokens" not in rows[0]
    assert rows[-1]["optim/skipped"] == 1 and math.isfinite(rows[-1]["loss/tokens"])
    state = context.policy.state_dict()
    assert any(not torch.equal(state[name], before[name]) for name in before), "the other steps train"
    assert all(torch.isfinite(value).all() for value in context.policy.parameters())


def test_too_many_skipped_steps_end_the_stage(setup: Setup):
    context = setup.context("dialogue", "cold_start.max_skipped_updates=1")
    with torch.no_grad():
        context.policy.vlm.model.language_model.norm.weight[0] = math.nan
    with pytest.raises(NotFiniteError, match=r"2 optimizer steps in a row .* cold_start\.max_skipped_updates \(1\)"):
        setup.run(context)


def losses(values: list[float]) -> Callable[[int], tuple[torch.Tensor, dict[str, float]] | None]:
    """Return a step loss that multiplies a weight by these values; None stands for a batch that cannot be read."""

    def step_loss(step: int):
        if values[step] < 0:
            raise DataError("video 3", "cannot be read")
        loss = (WEIGHT * values[step]).sum()
        return loss, {"loss/it": loss.item()}

    return step_loss


WEIGHT = torch.nn.Parameter(torch.ones(3))


def test_the_plain_loop_skips_alike(setup: Setup):
    context = setup.context("masks")
    with torch.no_grad():
        WEIGHT.fill_(1)
    fit(context, [WEIGHT], losses([1.0, math.inf, -1.0, 1.0]))
    rows = read_metrics(setup.out / "metrics.jsonl")
    assert rows[-1]["optim/skipped"] == 1 and rows[-1]["data/left_out"] == 1 and math.isfinite(rows[-1]["loss/it"])
    assert torch.isfinite(WEIGHT).all() and np.all(WEIGHT.detach().numpy() < 1)
