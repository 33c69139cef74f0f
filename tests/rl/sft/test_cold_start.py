"""The cold start: what its collator asks for, that it can be learnt, and that a killed run ends in the same weights."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from configs.load import load_config, save_config
from configs.schema import RunConfig, StageConfig
from cot_data.traces.dialogue import to_trajectory, without_frames
from cot_data.traces.write import write_trace
from env.frames import FrameCache
from env.rle import decode
from env.types import Answer, Select, Trajectory
from policy.videoseg.checkpoint import load_policy
from policy.videoseg.model import SegPolicy
from policy.vlm.batch import ALIKE, to_sequence
from rl.sft.collator import LessonCollator, SftBatch
from rl.sft.loss import lesson_loss
from rl.sft_coldstart import train
from tests.helpers.closeness import BACKWARD, assert_close_tensors
from tests.helpers.rl_parts import MICRO, Micro, read_lines

WEIGHT = 6.0


@pytest.fixture(scope="module")
def policy(micro: Micro) -> SegPolicy:
    return load_policy(micro.policy)


@pytest.fixture(scope="module")
def config(micro: Micro, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    return micro.config(tmp_path_factory.mktemp("lessons"))


def trajectories(micro: Micro, config: RunConfig) -> list[Trajectory]:
    return [
        to_trajectory(write_trace(task, config.env, np.random.default_rng(at), "brief"), task, config.env)
        for at, task in enumerate(micro.tasks())
    ]


def lesson_of(policy: SegPolicy, items: list[Trajectory], num_mask_frames: int = 2) -> SftBatch:
    stage = StageConfig(batch_size=len(items), decision_weight=WEIGHT)
    collator = LessonCollator(
        policy, items.__getitem__, items.__getitem__, FrameCache(), num_mask_frames, stage, seed=0
    )
    sequences = [to_sequence(item, policy.chat, policy.layout) for item in items]
    return collator.lesson(items, sequences, np.random.default_rng(0).spawn(len(items)))


def rows(count: int) -> list[dict[str, int]]:
    return [{"index": at} for at in range(count)]


def learnt(policy: SegPolicy, lesson: SftBatch, row: int, turn: int, least: float = 0.5) -> str:
    """The words of a turn whose tokens weigh `least` or more."""
    sequence, weights = lesson.batch.sequences[row], lesson.token_weights_BL[row]
    ids = [token for at, token in enumerate(sequence.ids) if sequence.turn_idx[at] == turn and weights[at] >= least]
    return str(policy.chat.tokenizer.decode(ids))


def test_only_what_the_policy_writes_is_learnt_and_decisions_weigh_more(
    micro: Micro, policy: SegPolicy, config: RunConfig
) -> None:
    items = trajectories(micro, config)
    lesson = lesson_of(policy, items)
    for row, item in enumerate(items):
        sequence, weights = lesson.batch.sequences[row], lesson.token_weights_BL[row]
        assert not weights[len(sequence) :].any()
        assert not weights[: len(sequence)][~torch.tensor(sequence.loss_mask)].any()
        if item.task.explore:
            continue
        for number, turn in enumerate(item.turns):
            assert learnt(policy, lesson, row, number).startswith(turn.action.text)
        decision, heavy = item.turns[-1].decision, learnt(policy, lesson, row, len(item.turns) - 1, WEIGHT).split()
        assert isinstance(decision, Answer)
        numbers = [decision.interval.start, decision.interval.end - 1, decision.key_frame]
        assert [int(word) for word in heavy if word.isdigit()][-3:] == numbers
        assert " ".join(heavy).count(item.task.caption or "none") >= 2, "in steps 2 and 3"
        assert "[SEG]" not in heavy and "Step" not in heavy


def test_who_is_meant_is_not_learnt_before_the_evidence_was_seen(
    micro: Micro, policy: SegPolicy, config: RunConfig
) -> None:
    tasks = [task for task in micro.tasks() if task.explore]
    env = config.env
    asked = [write_trace(task, env, np.random.default_rng(at), "brief") for task in tasks for at in range(4)]
    items = [
        to_trajectory(record, task, env)
        for record, task in zip(asked, [t for t in tasks for _ in range(4)], strict=True)
    ]
    lesson = lesson_of(policy, items)
    assert {len(item.turns) for item in items} == {1, 2}
    for row, item in enumerate(items):
        said = learnt(policy, lesson, row, len(item.turns) - 1).partition(" Step 2")[2]
        assert (item.task.caption in said.partition("</think>")[0]) == (len(item.turns) == 2)
        assert learnt(policy, lesson, row, len(item.turns) - 1).endswith("</answer><|im_end|>"), (
            "it repeats what was said"
        )


def test_without_frames_only_what_follows_from_the_sights_is_learnt(
    micro: Micro, policy: SegPolicy, config: RunConfig
) -> None:
    items = [without_frames(item) for item in trajectories(micro, config)]
    lesson = lesson_of(policy, items)
    assert lesson.batch.pixel_values is None and not lesson.batch.image_mask_BL.any()
    for row, item in enumerate(items):
        for number in range(len(item.turns)):
            text = learnt(policy, lesson, row, number)
            assert text.startswith(" Step") and text.rstrip().endswith("<|im_end|>")
            assert "Step 1" not in text and "closeup" not in text
    loss, metrics = lesson_loss(policy, None, [lesson], StageConfig("dialogue", mask_coef=0), FrameCache())
    assert torch.isfinite(loss) and "loss/masks" not in metrics


def test_batches_of_like_length_train_as_one_would(micro: Micro, policy: SegPolicy, config: RunConfig) -> None:
    items = trajectories(micro, config)[:6]
    stage, frames = StageConfig(batch_size=2, text_only_traces=4, decision_weight=WEIGHT), FrameCache()
    read = [without_frames(item) for item in items]
    apart = LessonCollator(policy, items.__getitem__, read.__getitem__, frames, 1, stage, seed=0)(rows(6))["lessons"]
    lengths = [[len(sequence) for sequence in lesson.batch.sequences] for lesson in apart]
    assert sum(map(len, lengths)) == 6 and all(min(each) >= ALIKE * max(each) for each in lengths)
    assert len(apart) > 2, "what is seen and what is read come apart, and what differs in length"
    one = lesson_of(policy, [*items[:2], *read[2:]], num_mask_frames=1)
    (loss, metrics), (wanted, wanted_metrics) = (
        lesson_loss(policy, None, each, stage, frames) for each in (apart, [one])
    )
    assert loss.item() == pytest.approx(wanted.item(), rel=BACKWARD)
    assert metrics == pytest.approx(wanted_metrics, rel=BACKWARD) and "loss/masks" in metrics


def test_masks_are_asked_for_at_every_seg_that_stands_for_the_target(
    micro: Micro, policy: SegPolicy, config: RunConfig
) -> None:
    items = trajectories(micro, config)
    lesson = lesson_of(policy, items, num_mask_frames=3)
    row, expected = 0, []
    for item in items:
        for turn in item.turns:
            assert isinstance(turn.decision, Select | Answer)
            is_named = re.fullmatch(f"the {item.task.caption} shape", item.task.expression)
            if isinstance(turn.decision, Answer) or is_named:
                expected += [(row, item.task.video, turn.decision.key_frame)] * 3
            row += 1
    assert [(at, video) for at, video, _ in lesson.targets] == [(at, video) for at, video, _ in expected]
    assert lesson.targets[::3] == expected[::3], "the key frame comes first"
    for (_, video, frame_idx), gold in zip(lesson.targets, lesson.gold, strict=True):
        rles = [item.task.gold[frame_idx] for item in items if item.task.video == video]
        wanted = [decode(rle) if rle else np.zeros_like(gold) for rle in rles]
        assert any(np.array_equal(gold, mask) for mask in wanted)
    assert set(lesson.captions.values()) <= {item.task.caption for item in items}


def test_one_batch_can_be_learnt_by_heart(micro: Micro, config: RunConfig) -> None:
    """Tokens and masks together, from random weights."""
    policy = load_policy(micro.policy.with_name("untrained"))
    lesson = lesson_of(policy, trajectories(micro, config)[:3], num_mask_frames=1)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=3e-3)
    stage, frames = StageConfig(), FrameCache()
    first: dict[str, float] = {}
    metrics: dict[str, float] = {}
    for _ in range(80):
        loss, metrics = lesson_loss(policy, None, [lesson], stage, frames)
        first = first or metrics
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert metrics["loss/tokens"] < 0.05 * first["loss/tokens"]
    assert metrics["loss/masks"] < 0.5 * first["loss/masks"]


STAGES = (
    "cold_start.stages=[{kind: masks, steps: 4, batch_size: 2, lr: 1.0e-3}, "
    "{kind: vision, steps: 4, batch_size: 2, lr: 1.0e-3}, {kind: captions, steps: 6, batch_size: 2, lr: 1.0e-3}, "
    "{kind: dialogue, steps: 4, batch_size: 2, text_only_traces: 2, lr: 1.0e-3, mask_coef: 0.0, align_coef: 0.5}, "
    "{kind: dialogue, steps: 24, batch_size: 2, lr: 1.0e-3, align_coef: 0.5, freeze_sam: true}]"
)


def test_a_killed_run_goes_on_to_the_same_weights(micro: Micro, tmp_path: Path) -> None:
    """SIGKILL inside the last stage, then --resume, against a run that nothing disturbed."""
    every = ["cold_start.save_every=5", "cold_start.log_every=1", "policy.path=", STAGES]
    whole = micro.config(tmp_path / "whole", every)
    torn = replace(whole, run_dir=str(tmp_path / "torn"))
    train(whole)
    save_config(torn, tmp_path / "torn.yaml")
    command = [sys.executable, "-m", "rl.sft_coldstart", "--config", str(tmp_path / "torn.yaml")]
    process = subprocess.Popen(command, env=os.environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    last_stage = Path(torn.run_dir) / "stage-4-dialogue"
    deadline = time.monotonic() + 240
    while not list(last_stage.glob("checkpoint-10/trainer_state.json")):
        assert process.poll() is None and time.monotonic() < deadline, "the run ended before it could be killed"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (last_stage / "policy.safetensors").exists()
    train(torn, resume=True)
    for name in ("vlm/model.safetensors", "seg.safetensors"):
        ours, theirs = (load_file(Path(run.run_dir) / "policy" / name) for run in (torn, whole))
        assert_close_tensors(ours, theirs, BACKWARD)
    logs = [read_lines(Path(run.run_dir) / "stage-4-dialogue" / "metrics.jsonl") for run in (torn, whole)]
    assert [row["step"] for row in logs[0]] == [row["step"] for row in logs[1]] == list(range(1, 25))
    assert logs[0][-1]["loss/tokens"] == pytest.approx(logs[1][-1]["loss/tokens"], abs=1e-5)


def test_a_run_is_saved_with_the_config_that_made_it(micro: Micro) -> None:
    saved = load_config(micro.policy.parent / "config.yaml")
    assert f"policy.hidden={saved.policy.hidden}" in MICRO
