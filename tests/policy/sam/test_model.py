"""Prompts, and frames decoded on their own, against SAM 2's own heads."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from policy.sam.model import FrameFeatures, SegSam2
from policy.sam.prompts import MaskPrompt
from tests.helpers.sam_parts import noise_frames, small_sam, with_tokens


@pytest.fixture(scope="module")
def sam() -> SegSam2:
    return small_sam()


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


POINTS = MaskPrompt(
    points_BP2=torch.tensor([[[0.3, 0.4], [0.8, 0.7]], [[0.5, 0.5], [0.1, 0.2]], [[0.9, 0.4], [0.2, 0.2]]]),
    labels_BP=torch.tensor([[1, 0], [1, 1], [1, 0]]),
)
PROMPTS = {
    "one appended token": MaskPrompt.language(noise(3, 32, seed=3)),
    "three appended tokens": MaskPrompt(noise(3, 3, 32, seed=4)),
    "tokens instead of SAM 2's own": MaskPrompt(noise(3, 10, 32, seed=5), "replace"),
    "points": POINTS,
    "points and a token": MaskPrompt(noise(3, 1, 32, seed=6), "append", POINTS.points_BP2, POINTS.labels_BP),
}


def by_sam2s_own_heads(
    sam: SegSam2, features: FrameFeatures, prompt: MaskPrompt, multimask: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Masks [N, h, w], presence [N] and predicted IoU [N] of the package's own function."""
    points = None
    if prompt.points_BP2 is not None:
        points = {"point_coords": prompt.points_BP2 * 64, "point_labels": prompt.labels_BP}
    plain = sam.sam_prompt_encoder.forward
    sam.sam_prompt_encoder.forward = with_tokens(plain, prompt)
    pixels = features.levels[-1] + sam.no_mem_embed.view(1, -1, 1, 1)
    _, _, iou_NM, masks_N1HW, _, _, presence_N1 = sam._forward_sam_heads(
        pixels, points, high_res_features=features.levels[:-1], multimask_output=multimask
    )
    del sam.sam_prompt_encoder.forward
    return masks_N1HW[:, 0], presence_N1[:, 0], iou_NM.amax(1)


@pytest.mark.parametrize("multimask", [False, True])
@pytest.mark.parametrize("name", PROMPTS)
@torch.no_grad()
def test_decoding_equals_sam2s_own_heads(sam: SegSam2, name: str, multimask: bool):
    features = sam.encode_frames(noise_frames(3))
    found = sam.decode(features, PROMPTS[name], multimask)
    wanted = by_sam2s_own_heads(sam, features, PROMPTS[name], multimask)
    for ours, theirs in zip(found, wanted, strict=True):
        assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()
    assert (found.logits_NHW[0] - found.logits_NHW[1]).abs().max() > 1e-3
    for other in PROMPTS.keys() - {name}:
        planted = sam.decode(features, PROMPTS[other], multimask)
        assert (planted.logits_NHW - wanted[0]).abs().max() > 1e-2 * wanted[0].abs().max(), other
    planted = sam.decode(features, PROMPTS[name], not multimask)
    assert (planted.logits_NHW - wanted[0]).abs().max() > 1e-2 * wanted[0].abs().max()


def test_the_gradient_of_a_mask_reaches_its_own_prompt_alone(sam: SegSam2):
    for prompt in (PROMPTS["one appended token"], PROMPTS["tokens instead of SAM 2's own"]):
        assert prompt.tokens_BNC is not None
        tokens_BNC = prompt.tokens_BNC[:2].clone().requires_grad_()
        masks = sam.decode(sam.encode_frames(noise_frames(2)), MaskPrompt(tokens_BNC, prompt.mode))
        masks.logits_NHW[0].sum().backward()
        assert tokens_BNC.grad is not None
        assert tokens_BNC.grad[0].abs().amax(-1).min() > 1e-4
        assert tokens_BNC.grad[1].abs().max() == 0, "another row's mask"


def test_a_mask_of_another_size_is_resized_and_cut(sam: SegSam2):
    mask = torch.zeros(1, 32, 48)
    mask[:, 8:16, 12:24] = 1
    (resized,) = MaskPrompt(mask_BHW=mask).mask_inputs(64, sam.device)  # pyright: ignore[reportGeneralTypeIssues]
    wanted = torch.zeros(1, 64, 64)
    wanted[:, 16:32, 16:32] = 1
    assert torch.equal(resized, wanted)


def test_a_mask_is_not_decoded(sam: SegSam2):
    with pytest.raises(ValueError, match="a mask prompt needs no decoding; track it"):
        sam.decode(sam.encode_frames(noise_frames(1)), MaskPrompt(mask_BHW=torch.ones(1, 64, 64)))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({}, "an empty prompt; give language tokens, points or a mask"),
        ({"points_BP2": torch.zeros(1, 1, 2)}, "points_BP2 and labels_BP together"),
        ({"tokens_BNC": torch.zeros(2, 1, 32), "points_BP2": torch.zeros(1, 1, 2), "labels_BP": torch.ones(1, 1)},
         "parts of a prompt are for 2, 1, 1 objects"),
        ({"tokens_BNC": torch.zeros(1, 1, 32), "mask_BHW": torch.ones(1, 8, 8)}, "SAM 2 takes a mask as it is"),
        ({"tokens_BNC": torch.zeros(1, 1, 32), "mode": "replace", "points_BP2": torch.zeros(1, 1, 2),
          "labels_BP": torch.ones(1, 1)}, "mode 'replace' would drop the points"),
    ],
)  # fmt: skip
def test_prompts_that_contradict_themselves_are_refused(parts: dict, message: str):
    with pytest.raises(ValueError, match=message):
        MaskPrompt(**parts)
