"""Tracking and its gradients against numbers computed by the released VIRST code, with seeded weights.

VIRST replaces SAM 2's sparse prompts by ten tokens on a few anchors, attends to the three nearest ones, and takes the
best of three masks on every frame; in training it decodes anchors in order of time.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sam2.modeling.sam.transformer import Attention
from torch import Tensor, nn

from policy.sam.prompts import MaskPrompt
from policy.sam.track_state import TrackSettings
from policy.sam.tracking import track_objects
from tests.helpers.sam_parts import filled_sam, noise

EVALUATION = TrackSettings(order="forward", max_attended=3, multimask="always")
TRAINING = TrackSettings(order="forward", max_attended=3, decode_prompted_first=False)


@pytest.fixture(scope="module")
def released(clips: Path) -> tuple[dict[str, Any], Any]:
    folder = clips / "oracle_seeds"
    if not (folder / "virst.npz").is_file():
        pytest.skip(f"left out: no numbers of the released code at {folder}")
    return json.loads((folder / "virst.json").read_text()), np.load(folder / "virst.npz")


def anchors(case: dict[str, Any], prompts_1NKC: Tensor, frames: dict[int, int]) -> dict[int, MaskPrompt]:
    """Frame -> its tokens; `frames` says which of the K sets of tokens belongs to a frame."""
    return {at: MaskPrompt(prompts_1NKC[:, :, k], "replace") for at, k in frames.items()}


def close(found: Tensor, wanted: np.ndarray) -> bool:
    """Whether values agree to 1e-4 of the largest."""
    return bool((found - torch.from_numpy(wanted)).abs().max() < 1e-4 * np.abs(wanted).max())


@torch.no_grad()
def test_masks_and_presence_of_every_frame(released: tuple[dict[str, Any], Any]):
    told, arrays = released
    case = told["propagate"][0]["case"]
    sam = filled_sam(case["width"], case["memory_layers"], case["seed"])
    images = noise("images", (case["T"], 3, 128, 128), case["seed"])
    prompts = noise("prompts", (1, case["N"], case["T_s"], case["width"]), case["seed"])
    conditioning = told["propagate"][0]["conditioning_frames"]
    by_frame = anchors(case, prompts, {at: case["frame_ids"].index(at) for at in conditioning})
    video = sam.encode_images(images)
    masks = track_objects(sam, video, by_frame, EVALUATION)
    assert close(torch.cat([each.logits_NHW for each in masks]), arrays["propagate/0/low"])
    assert close(torch.cat([each.presence_N for each in masks]), arrays["propagate/0/score"])
    appended = {at: MaskPrompt(prompt.tokens_BNC) for at, prompt in by_frame.items()}
    planted = track_objects(sam, video, appended, EVALUATION)
    assert not close(torch.cat([each.logits_NHW for each in planted]), arrays["propagate/0/low"])


def test_gradients_of_training(released: tuple[dict[str, Any], Any]):
    told, arrays = released
    case = told["decode"][0]["case"]
    sam = filled_sam(case["width"], case["memory_layers"], case["seed"]).train()
    for module in sam.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
        elif isinstance(module, Attention):
            module.dropout_p = 0.0
    num_frames, seed = case["T"], case["seed"]
    prompts = noise("prompts", (1, case["N"], len(case["cond"]), case["width"]), seed).requires_grad_()
    images = noise("images", (num_frames, 3, 128, 128), seed)
    by_frame = anchors(case, prompts, {at: k for k, at in enumerate(case["cond"])})
    masks = track_objects(sam, sam.encode_images(images, train_backbone=True), by_frame, TRAINING)
    assert close(torch.cat([each.logits_NHW for each in masks]).detach(), arrays["decode/0/low"])
    assert close(torch.stack([each.presence_N for each in masks]).detach(), arrays["decode/0/score"])
    assert close(torch.stack([each.iou_N for each in masks]).detach(), arrays["decode/0/iou"])
    terms = [
        (each.logits_NHW * noise(f"cotangent{at}", (1, 32, 32), seed)).sum() + each.iou_N.sum() + each.presence_N.sum()
        for at, each in enumerate(masks)
    ]
    torch.stack(terms).sum().backward()
    assert prompts.grad is not None and close(prompts.grad, arrays["decode/0/grad_prompts"])
    gradients = {name: parameter.grad for name, parameter in sam.named_parameters()}
    num_compared = 0
    for name, numbers in told["decode"][0]["grads"].items():
        gradient = gradients[name]
        if numbers is None:
            assert gradient is None or not gradient.any(), name
            continue
        gradient = torch.zeros(()) if gradient is None else gradient
        if numbers[0] < 1e-4:  # unused weights, and biases of keys, which do not change attention: 0 up to rounding
            assert gradient.norm() < 1e-4, name
            continue
        num_compared += 1
        probe = noise(f"probe:{name}", tuple(gradient.shape), seed)
        found = [gradient.norm().item(), gradient.sum().item(), (gradient * probe).sum().item()]
        tolerance = 1e-4 * numbers[0] * max(1.0, gradient.numel() ** 0.5) + 1e-6
        assert np.abs(np.array(found) - numbers).max() < tolerance, (name, found, numbers)
    assert num_compared > 250
