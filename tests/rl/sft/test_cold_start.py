"""The cold start: the collator's targets, that a batch can be learned, and that a killed run ends in equal weights."""

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

from configs.load import config_text, load_config
from configs.schema import StageConfig
from cot_data.traces.dialogue import to_trajectory, without_frames
from cot_data.traces.write import write_trace
from env.files import write_text
from env.rle import decode
from env.types import Answer, Select, Trajectory
from policy.videoseg.checkpoint import load_policy
from policy.vlm.batch import ALIKE
from rl.sft.collator import Sequences, SftBatch, SftCollator
from rl.sft.context import StageContext
from rl.sft.loss import sft_loss
from rl.sft_coldstart import train
from tests.helpers.closeness import BACKWARD, assert_close_tensors
from tests.helpers.rl_parts import MICRO, Micro, read_lines
from tests.helpers.sft_parts import one_batch, stage_context, with_mask_frames

WEIGHT = 6.0


@pytest.fixture(scope="module")
def context(micro: Micro, tmp_path_factory: pytest.TempPathFactory) -> StageContext:
    config = micro.config(tmp_path_factory.mktemp("sft"))
    return stage_context(load_policy(micro.policy), config, StageConfig(decision_weight=WEIGHT))


def trajectories(micro: Micro, context: StageContext) -> list[Trajectory]:
    env = context.config.env
    return [
        to_trajectory(write_trace(task, env, np.random.default_rng(at), "brief"), task, env)
        for at, task in enumerate(micro.tasks())
    ]


def rows(count: int) -> list[dict[str, int]]:
    return [{"index": at} for at in range(count)]


def learned(context: StageContext, batch: SftBatch, row: int, turn: int, least: float = 0.5) -> str:
    """Return the words of a turn whose tokens weigh `least` or more."""
    sequence, weights = batch.batch.sequences[row], batch.token_weights_BL[row]
    ids = [token for at, token in enumerate(sequence.ids) if sequence.turn_idx[at] == turn and weights[at] >= least]
    return str(context.policy.chat.tokenizer.decode(ids))


def test_only_actions_have_weight_and_decisions_have_more(micro: Micro, context: StageContext) -> None:
    items = trajectories(micro, context)
    batch = one_batch(context, items)
    for row, item in enumerate(items):
        sequence, weights = batch.batch.sequences[row], batch.token_weights_BL[row]
        assert not weights[len(sequence) :].any()
        assert not weights[: len(sequence)][~torch.tensor(sequence.loss_mask)].any()
        if item.task.explore:
            continue
        for number, turn in enumerate(item.turns):
            assert learned(context, batch, row, number).startswith(turn.action.text)
        decision, heavy = item.turns[-1].decision, learned(context, batch, row, len(item.turns) - 1, WEIGHT).split()
        assert isinstance(decision, Answer)
        numbers = [decision.interval.start, decision.interval.end - 1, decision.key_frame]
        assert [int(word) for word in heavy if word.isdigit()][-3:] == numbers
        assert " ".join(heavy).count(item.task.caption or "none") >= 2, "in steps 2 and 3"
        assert "[SEG]" not in heavy and "Step" not in heavy


def test_the_target_has_no_weight_before_the_evidence_is_shown(micro: Micro, context: StageContext) -> None:
    tasks = [task for task in micro.tasks() if task.explore]
    env = context.config.env
    asked = [write_trace(task, env, np.random.default_rng(at), "brief") for task in tasks for at in range(4)]
    items = [
        to_trajectory(record, task, env)
        for record, task in zip(asked, [t for t in tasks for _ in range(4)], strict=True)
    ]
    batch = one_batch(context, items)
    assert {len(item.turns) for item in items} == {1, 2}
    for row, item in enumerate(items):
        said = learned(context, batch, row, len(item.turns) - 1).partition(" Step 2")[2]
        assert (item.task.caption in said.partition("</think>")[0]) == (len(item.turns) == 2)
        assert learned(context, batch, row, len(item.turns) - 1).endswith("</answer><|im_end|>"), (
            "the answer block repeats the conclusion"
        )


def test_without_frames_only_conclusions_have_weight(micro: Micro, context: StageContext) -> None:
    items = [without_frames(item) for item in trajectories(micro, context)]
    batch = one_batch(context, items)
    assert batch.batch.pixel_values is None and not batch.batch.image_mask_BL.any()
    for row, item in enumerate(items):
        for number in range(len(item.turns)):
            text = learned(context, batch, row, number)
            assert text.startswith(" Step") and text.rstrip().endswith("<|im_end|>")
            assert "Step 1" not in text and "closeup" not in text
    loss, metrics = sft_loss(replace(context, stage=StageConfig("dialogue", mask_coef=0)), [batch])
    assert torch.isfinite(loss) and "loss/masks" not in metrics


def test_batches_of_similar_length_have_the_loss_of_one_batch(micro: Micro, context: StageContext) -> None:
    items = trajectories(micro, context)[:6]
    text_only = [without_frames(item) for item in items]
    stage = StageConfig(batch_size=2, text_only_traces=4, decision_weight=WEIGHT)
    context = with_mask_frames(replace(context, stage=stage), 1)
    collator = SftCollator(context, Sequences(items.__getitem__, text_only.__getitem__, 6))
    apart = collator(rows(6))["batches"]
    lengths = [[len(sequence) for sequence in batch.batch.sequences] for batch in apart]
    assert sum(map(len, lengths)) == 6 and all(min(each) >= ALIKE * max(each) for each in lengths)
    assert len(apart) > 2, "frames and text only are separate batches, and so are different lengths"
    one = one_batch(context, [*items[:2], *text_only[2:]])
    (loss, metrics), (expected, expected_metrics) = (sft_loss(context, each) for each in (apart, [one]))
    assert loss.item() == pytest.approx(expected.item(), rel=BACKWARD)
    assert metrics == pytest.approx(expected_metrics, rel=BACKWARD) and "loss/masks" in metrics


def test_every_seg_that_stands_for_the_target_has_target_masks(micro: Micro, context: StageContext) -> None:
    items = trajectories(micro, context)
    batch = one_batch(with_mask_frames(context, 3), items)
    row, expected = 0, []
    for item in items:
        for turn in item.turns:
            assert isinstance(turn.decision, Select | Answer)
            is_named = re.fullmatch(f"the {item.task.caption} shape", item.task.expression)
            if isinstance(turn.decision, Answer) or is_named:
                expected += [(row, item.task.video, turn.decision.key_frame)] * 3
            row += 1
    assert [(at, video) for at, video, _ in batch.targets] == [(at, video) for at, video, _ in expected]
    assert batch.targets[::3] == expected[::3], "the key frame comes first"
    for (_, video, frame_idx), gold in zip(batch.targets, batch.gold, strict=True):
        rles = [item.task.gold[frame_idx] for item in items if item.task.video == video]
        masks = [decode(rle) if rle else np.zeros_like(gold) for rle in rles]
        assert any(np.array_equal(gold, mask) for mask in masks)
    assert set(batch.captions.values()) <= {item.task.caption for item in items}


def test_one_batch_can_be_memorised(micro: Micro, context: StageContext) -> None:
    """Tokens and masks together, from random weights."""
    policy = load_policy(micro.policy.with_name("untrained"))
    context = with_mask_frames(replace(context, policy=policy, stage=StageConfig()), 1)
    batch = one_batch(context, trajectories(micro, context)[:3])
    optimizer = torch.optim.AdamW(policy.parameters(), lr=3e-3)
    first: dict[str, float] = {}
    metrics: dict[str, float] = {}
    for _ in range(80):
        loss, metrics = sft_loss(context, [batch])
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


def test_a_killed_run_resumes_to_the_same_weights(micro: Micro, tmp_path: Path) -> None:
    """SIGKILL inside the last stage, then --resume, against a run that nothing disturbed."""
    every = ["cold_start.save_every=5", "cold_start.log_every=1", "policy.path=", STAGES]
    whole = micro.config(tmp_path / "whole", every)
    torn = replace(whole, run_dir=str(tmp_path / "torn"))
    train(whole)
    write_text(tmp_path / "torn.yaml", config_text(torn))
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
