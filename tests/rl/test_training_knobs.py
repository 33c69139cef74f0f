"""Training options of the published recipe that the small default does not use: each does what the schema says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import get_cosine_schedule_with_warmup, get_scheduler

from configs.load import ConfigError
from configs.schema import ColdStartConfig, PolicyConfig, RunConfig, StageConfig
from cot_data.traces.dialogue import to_trajectory
from cot_data.traces.write import write_trace
from env.frames import FrameCache
from env.types import Trajectory
from policy.sam.losses import UNCERTAIN_PART, at_points, mask_losses
from policy.videoseg.checkpoint import load_policy, save_policy
from policy.videoseg.model import SegPolicy
from policy.vlm.batch import Batch, collate, to_sequence
from rl.sft.caption_prompts import CaptionPrompts
from rl.sft.collator import SftCollator
from rl.sft.trainer import ColdStartTrainer, choose_sam_parts, training_arguments
from rl.sft.unreadable import UnreadableSamples
from rl.sft_coldstart import train
from tests.helpers.closeness import BACKWARD, FEW_STEPS, assert_close_tensors, assert_close_to_scale, largest_of
from tests.helpers.rl_parts import Micro, read_lines
from tests.helpers.sft_parts import rows_of, stage_context

pytestmark = pytest.mark.timeout(1200)

LORA = PolicyConfig(lora_rank=4, lora_alpha=8, lora_dropout=0.5, lora_modules_to_save=("lm_head", "embed_tokens"))


@pytest.fixture(scope="module")
def config(micro: Micro, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    return micro.config(tmp_path_factory.mktemp("knobs"))


@pytest.fixture(scope="module")
def items(micro: Micro, config: RunConfig) -> list[Trajectory]:
    tasks = micro.tasks()
    tasks = [tasks[at % len(tasks)] for at in range(8)]
    records = [write_trace(task, config.env, np.random.default_rng(at), "brief") for at, task in enumerate(tasks)]
    return [to_trajectory(record, task, config.env) for record, task in zip(records, tasks, strict=True)]


def batch_of(policy: SegPolicy, items: list[Trajectory]) -> Batch:
    sequences = [to_sequence(item, policy.chat, policy.layout) for item in items]
    return collate(sequences, policy.chat, policy.layout, FrameCache(), policy.device)


def gradients(policy: SegPolicy) -> dict[str, Tensor]:
    return {name: each.grad.clone() for name, each in policy.named_parameters() if each.grad is not None}


# ---- accumulation ----


def step_gradient(
    micro: Micro, items: list[Trajectory], folder: Path, max_tokens: int
) -> tuple[dict[str, Tensor], dict[str, float], int]:
    """Return gradient and metrics of one step of the trainer on eight traces, and its number of forward passes."""
    policy = load_policy(micro.policy)
    torch.manual_seed(0)
    prompts = CaptionPrompts(policy.chat, policy.sam.hidden_dim)
    stage = StageConfig(batch_size=8, align_coef=0.4, decision_weight=4.0, bce_coef=2.0)
    sets = [f"cold_start.max_batch_tokens={max_tokens}", "cold_start.mask_frames=3"]
    context = stage_context(policy, micro.config(folder, sets), stage, prompts)
    trainer = ColdStartTrainer(context, rows_of(items), UnreadableSamples(context, 8))
    inputs = SftCollator(context, rows_of(items))([{"index": at} for at in range(8)])
    forwards: list[int] = []
    policy.register_forward_hook(lambda _module, given, _output: forwards.append(len(given[0].sequences)))
    trainer.training_step(policy, inputs)
    assert sum(forwards) == 8
    return gradients(policy), trainer.drain(), len(forwards)


def test_eight_batches_of_one_are_one_batch_of_eight(micro: Micro, items: list[Trajectory], tmp_path: Path):
    """Tokens, masks (random frames among them) and the pull towards captions, through the trainer itself."""
    whole, metrics, _ = step_gradient(micro, items, tmp_path / "whole", 0)
    split, split_metrics, num_forwards = step_gradient(micro, items, tmp_path / "split", 1)
    assert num_forwards == 8
    assert {"loss/tokens", "loss/masks", "loss/align"} == {name for name in metrics if name.startswith("loss/")}
    assert split_metrics == pytest.approx(metrics, rel=BACKWARD)
    assert largest_of(whole) > 1e-3
    assert_close_tensors(split, whole, BACKWARD)


# ---- the optimiser ----


def rates(stage: StageConfig, folder: Path) -> list[float]:
    arguments = training_arguments(stage, ColdStartConfig(), folder, seed=0)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=stage.lr)
    name, kwargs = arguments.lr_scheduler_type, arguments.lr_scheduler_kwargs
    warmup = int(arguments.warmup_steps)
    schedule = get_scheduler(name, optimizer, warmup, stage.steps, scheduler_specific_kwargs=kwargs)  # pyright: ignore
    found = []
    for _ in range(stage.steps):
        found.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return found


def test_the_rate_is_a_plateau_or_a_cosine_after_a_warm_up_of_a_twentieth(tmp_path: Path):
    stage = StageConfig(steps=100, lr=1.0)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    expected = get_cosine_schedule_with_warmup(optimizer, 5, 100)
    cosine, plateau = rates(replace(stage, lr_schedule="cosine"), tmp_path), rates(stage, tmp_path)
    for at in range(100):
        assert cosine[at] == pytest.approx(expected.get_last_lr()[0])
        optimizer.step()
        expected.step()
    assert cosine[:6] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0]) == plateau[:6]
    assert set(plateau[5:66]) == {1.0} and plateau[99] < 0.05


def test_betas_reach_the_optimizer(tmp_path: Path):
    arguments = training_arguments(StageConfig(), ColdStartConfig(betas=(0.8, 0.999)), tmp_path, seed=0)
    assert (arguments.adam_beta1, arguments.adam_beta2) == (0.8, 0.999)


# ---- masks ----


def test_points_lie_where_the_mask_is_unsure():
    torch.manual_seed(0)
    side = 64
    ramp_1HW = (torch.arange(side) - side / 2 + 0.5).expand(1, side, side).clone()  # logit 0 down the middle
    gold_1HW = (ramp_1HW > 0).float()
    logits_1NP, gold_1NP = at_points(ramp_1HW, gold_1HW, 400)
    assert logits_1NP.shape == gold_1NP.shape == (1, 1, 400)
    sure = logits_1NP.abs() > 1
    assert torch.equal(logits_1NP[sure] > 0, gold_1NP[sure] > 0.5), "both masks are read at the same points"
    near = (logits_1NP.abs() < side / 2 * UNCERTAIN_PART / 2).float().mean().item()
    assert near > UNCERTAIN_PART, "three in twelve of the candidates are kept as uncertain"
    larger_1HW = torch.nn.functional.interpolate(gold_1HW[:, None], scale_factor=2)[:, 0]
    torch.manual_seed(0)
    _, at_larger_1NP = at_points(ramp_1HW, larger_1HW, 400)
    assert ((at_larger_1NP - gold_1NP).abs() > 0.5).float().mean() < 0.05


def test_a_loss_at_points_takes_presence_from_the_whole_mask():
    torch.manual_seed(0)
    gold_NHW = torch.zeros(2, 64, 64, dtype=torch.bool)
    gold_NHW[0, 0, 0] = True  # which no point may hit
    logits_NHW = torch.full((2, 16, 16), -3.0, requires_grad=True)
    presence_N = torch.tensor([2.0, 2.0])
    whole, points = mask_losses(logits_NHW, presence_N, gold_NHW), mask_losses(logits_NHW, presence_N, gold_NHW, 100)
    assert_close_to_scale(points[2], whole[2], FEW_STEPS)
    assert points[0][0] > 0 == points[0][1] and abs(points[0][0] - whole[0][0]) < 0.1
    points[0].sum().backward()
    assert logits_NHW.grad is not None and logits_NHW.grad[0].abs().max() > 0


def test_only_the_named_parts_of_sam_2_are_trained(micro: Micro):
    sam = load_policy(micro.policy).sam

    def learning() -> set[str]:
        return {name.partition(".")[0] for name, each in sam.named_parameters() if each.requires_grad}

    choose_sam_parts(sam, StageConfig(sam_parts=("sam_mask_decoder", "sam_prompt_encoder")))
    assert learning() == {"sam_mask_decoder", "sam_prompt_encoder"}
    choose_sam_parts(sam, StageConfig(freeze_sam=True))
    assert learning() == set()
    choose_sam_parts(sam, StageConfig())
    assert {"image_encoder", "memory_attention", "sam_mask_decoder"} <= learning()
    with pytest.raises(ConfigError, match=r"sam_parts: expected some of .*sam_mask_decoder.*, found mask_decoder"):
        choose_sam_parts(sam, StageConfig(sam_parts=("mask_decoder",)))


# ---- adapters ----


@pytest.fixture
def adapted(micro: Micro) -> Iterator[SegPolicy]:
    policy = load_policy(micro.policy, LORA)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05, generator=torch.Generator().manual_seed(len(name)))
    yield policy


def test_adapters_drop_only_where_they_are_trained(adapted: SegPolicy, items: list[Trajectory]):
    batch = batch_of(adapted, items[:2])
    first, again = (adapted(batch).logprobs_BL for _ in range(2))
    assert torch.equal(first, again), "as loaded, for rollouts and scoring, nothing is dropped"
    adapted.train()
    assert not torch.equal(adapted(batch).logprobs_BL, first)


def test_saved_modules_train_in_full_beside_the_adapters(micro: Micro, adapted: SegPolicy, tmp_path: Path):
    trained = {name for name, each in adapted.vlm.named_parameters() if each.requires_grad}
    whole = {name for name in trained if ".lora_" not in name}
    assert whole == {"model.language_model.embed_tokens.weight"}, "the small head is tied to it"
    with torch.no_grad():
        adapted.vlm.lm_head.weight.add_(1.0)
    save_policy(adapted, tmp_path)
    saved, before = (load_policy(folder).vlm.lm_head.weight for folder in (tmp_path, micro.policy))
    assert torch.equal(saved, before + 1.0)
    with pytest.raises(ConfigError, match=r"lora_modules_to_save: expected some of lm_head, embed_tokens.*found head"):
        load_policy(micro.policy, replace(LORA, lora_modules_to_save=("head",)))


# ---- precision and memory ----


def test_recomputed_activations_give_the_same_gradient_from_less_memory(micro: Micro, items: list[Trajectory]):
    found: list[tuple[dict[str, Tensor], int]] = []
    for recompute in (False, True):
        policy = load_policy(micro.policy, PolicyConfig(recompute_activations=recompute))
        saved: dict[int, int] = {}

        def keep(tensor: Tensor, saved: dict[int, int] = saved) -> Tensor:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            output = policy(batch_of(policy, items[:4]))
        (output.logprobs_BL.sum() + output.prompts_MC.sum()).backward()
        weights = {each.untyped_storage().data_ptr() for each in policy.parameters()}
        found.append((gradients(policy), sum(size for at, size in saved.items() if at not in weights)))
    (plain, plain_bytes), (recomputed, recomputed_bytes) = found
    assert_close_tensors(recomputed, plain, BACKWARD)
    assert recomputed_bytes < 0.6 * plain_bytes


def test_a_learner_that_recomputes_drops_nothing(micro: Micro, items: list[Trajectory]):
    policy = load_policy(micro.policy, replace(LORA, recompute_activations=True))
    batch = batch_of(policy, items[:2])
    assert policy.vlm.training and torch.equal(policy(batch).logprobs_BL, policy(batch).logprobs_BL)


def test_bfloat16_is_for_computing_and_float32_for_weights(micro: Micro, items: list[Trajectory]):
    exact = load_policy(micro.policy)
    policy = load_policy(micro.policy, PolicyConfig(compute_dtype="bfloat16", recompute_activations=True))
    batch = batch_of(policy, items[:4])
    output, expected = policy(batch), exact(batch)
    assert output.logprobs_BL.dtype == output.prompts_MC.dtype == torch.float32
    apart = (output.logprobs_BL - expected.logprobs_BL).abs()
    assert apart.max() > 1e-4 and apart.sum() / batch.loss_mask_BL.sum() < 0.05
    (output.logprobs_BL.sum() + output.prompts_MC.sum()).backward()
    assert {each.dtype for each in policy.parameters()} == {torch.float32}
    assert {each.dtype for each in gradients(policy).values()} == {torch.float32}


def test_published_half_precision_weights_are_loaded_in_float32(micro: Micro, tmp_path: Path):
    save_policy(load_policy(micro.policy), tmp_path)
    path = tmp_path / "vlm" / "model.safetensors"
    save_file({name: each.bfloat16() for name, each in load_file(path).items()}, path, metadata={"format": "pt"})
    card = tmp_path / "vlm" / "config.json"
    card.write_text(json.dumps({**json.loads(card.read_text()), "dtype": "bfloat16"}))
    assert {each.dtype for each in load_policy(tmp_path).parameters()} == {torch.float32}


# ---- all of it ----


def test_a_cold_start_with_the_published_knobs_runs_an_epoch(micro: Micro, tmp_path: Path):
    stage = (
        "cold_start.stages=[{kind: dialogue, epochs: 1, batch_size: 4, lr: 1.0e-3, lr_schedule: cosine, "
        "bce_coef: 2.0, dice_coef: 0.5, mask_points: 64, sam_parts: [sam_mask_decoder]}]"
    )
    knobs = ["cold_start.betas=[0.9, 0.999]", "cold_start.max_batch_tokens=600", "policy.lora_rank=4", stage]
    knobs += ["policy.lora_dropout=0.05", "policy.lora_modules_to_save=[lm_head, embed_tokens]"]
    knobs += ["policy.compute_dtype=bfloat16", "policy.recompute_activations=true", "cold_start.log_every=1"]
    config = micro.config(tmp_path / "run", knobs)
    after = load_policy(train(config))
    rows = read_lines(tmp_path / "run" / "stage-0-dialogue" / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, -(-len(micro.tasks()) // 4) + 1))
    assert np.isfinite([row["loss/tokens"] for row in rows]).all() and "loss/masks" in rows[0]
    changed = _changed(load_policy(micro.policy), after)
    assert {name.partition(".")[0] for name in changed["sam"]} == {"sam_mask_decoder"}
    assert changed["text_hidden_fcs"] and not [name for name in changed["vlm"] if "visual" in name or "norm" in name]
    assert any("q_proj" in name for name in changed["vlm"]) and any("embed_tokens" in name for name in changed["vlm"])


def _changed(before: SegPolicy, after: SegPolicy) -> dict[str, set[str]]:
    """Return the names of the weights that differ, by part of the policy."""
    changed: dict[str, set[str]] = {}
    for part in ("vlm", "text_hidden_fcs", "sam"):
        old: Any = before.get_submodule(part).state_dict()
        new = after.get_submodule(part).state_dict()
        changed[part] = {name for name, tensor in old.items() if not torch.equal(tensor, new[name])}
    return changed
