"""Tracking from several conditioning frames, against the package's own video predictor with the same weights.

The predictor keeps memories in bfloat16; equality is up to 1e-3 of the largest logit, and every setting is shown to
change the masks by ten times as much.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from policy.sam.model import SegSam2
from policy.sam.prompts import MaskPrompt
from policy.sam.tracking import TrackSettings, track_objects, track_videos
from tests.helpers.sam_parts import noise_frames, small_sam, stock_logits, stock_predictor, write_frames

T = 20
STOCK = TrackSettings(order="one_state", memory_dtype=torch.bfloat16)
CLOSE = 1e-3


@pytest.fixture(scope="module")
def sam() -> SegSam2:
    return small_sam()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("frames")


@pytest.fixture(scope="module")
def frames(folder: Path) -> list[np.ndarray]:
    return write_frames(folder, T)


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def clicks(*points: tuple[float, float, int]) -> MaskPrompt:
    """The same clicks (x, y, label) for the first of two objects, and their mirror image for the second."""
    places = torch.tensor([[x, y] for x, y, _ in points])
    mirrored = torch.stack([1 - places[:, 0], places[:, 1]], dim=1)
    labels = torch.tensor([label for _, _, label in points]).expand(2, -1)
    return MaskPrompt(points_BP2=torch.stack([places, mirrored]), labels_BP=labels)


def squares() -> MaskPrompt:
    mask = torch.zeros(2, 64, 64, dtype=torch.bool)
    mask[0, 20:41, 13:37] = True
    mask[1, 3:17, 30:61] = True
    return MaskPrompt(mask_BHW=mask)


def language(mode, num_tokens: int, seed: int) -> MaskPrompt:
    return MaskPrompt(noise(2, num_tokens, 32, seed=seed), mode)


ONE_CLICK = {3: clicks((0.3, 0.4, 1)), 7: clicks((0.6, 0.5, 1)), 12: clicks((0.9, 0.4, 1)), 14: clicks((0.2, 0.7, 1))}
SEVERAL_CLICKS = {4: clicks((0.3, 0.4, 1), (0.8, 0.8, 0)), 11: clicks((0.9, 0.5, 1), (0.1, 0.2, 0), (0.2, 0.9, 1))}


@dataclass(frozen=True)
class Case:
    """Prompts and settings, the predictor's attributes that mean the same, and settings that are wrong."""

    prompts: dict[int, MaskPrompt]
    settings: TrackSettings = STOCK
    switches: dict[str, object] = field(default_factory=dict)
    wrong: tuple[dict[str, object], ...] = ()


MULTIMASK = {"multimask_output_in_sam": True, "multimask_output_for_tracking": True}
CASES = {
    "clicks": Case(SEVERAL_CLICKS, wrong=({"order": "two_states"}, {"decode_prompted_first": False})),
    "three masks": Case(
        ONE_CLICK,
        replace(STOCK, multimask="always"),
        MULTIMASK,
        ({"multimask": "prompted"}, {"multimask": "never"}),
    ),
    "three masks on prompted frames": Case(
        ONE_CLICK,
        replace(STOCK, multimask="prompted"),
        {"multimask_output_in_sam": True},
        ({"multimask": "always"}, {"multimask": "never"}),
    ),
    "two conditioning frames attended": Case(
        ONE_CLICK, replace(STOCK, max_attended=2), {"max_cond_frames_in_attn": 2}, ({"max_attended": -1},)
    ),
    "three conditioning frames attended": Case(
        ONE_CLICK, replace(STOCK, max_attended=3), {"max_cond_frames_in_attn": 3}, ({"max_attended": 2},)
    ),
    "mask": Case({9: squares()}, wrong=({"order": "two_states"},)),
    "mask and click, binary memories": Case(
        {5: squares(), 13: clicks((0.5, 0.5, 1))},
        replace(STOCK, binarize_prompted=True),
        {"binarize_mask_from_pts_for_mem_enc": True},
        ({"binarize_prompted": False},),
    ),
    "appended tokens": Case({5: language("append", 1, 2), 8: language("append", 3, 3)}),
    "tokens instead of SAM 2's own": Case(
        {0: language("replace", 10, 4), 9: language("replace", 10, 5)},
        replace(STOCK, order="forward", max_attended=3, multimask="always"),
        MULTIMASK | {"max_cond_frames_in_attn": 3},
        ({"multimask": "never"}, {"decode_prompted_first": False}),
    ),
    "forward from the first frame": Case(
        {6: clicks((0.3, 0.4, 1)), 15: clicks((0.5, 0.5, 1))}, replace(STOCK, order="forward"), {}, (
            {"order": "one_state"},
        ),
    ),
}  # fmt: skip


@torch.inference_mode()
def tracked(sam: SegSam2, frames: list[np.ndarray], prompts: dict[int, MaskPrompt], settings: TrackSettings) -> Tensor:
    """Mask logits [T, B, 64, 64]."""
    masks = track_objects(sam, sam.encode_frames(frames), prompts, settings)
    small = torch.stack([each.logits_NHW for each in masks])
    return F.interpolate(small, (64, 64), mode="bilinear", align_corners=False)


def difference(found: Tensor, wanted: Tensor) -> float:
    """Largest difference, as a part of the largest logit."""
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


@pytest.mark.parametrize("name", CASES)
def test_tracking_equals_the_video_predictor(sam: SegSam2, frames: list[np.ndarray], folder: Path, name: str):
    case = CASES[name]
    predictor = stock_predictor(sam)
    for attribute, value in case.switches.items():
        setattr(predictor, attribute, value)
    wanted = stock_logits(predictor, folder, case.prompts, reverse_too=case.settings.order != "forward")
    found = tracked(sam, frames, case.prompts, case.settings)
    print(name, difference(found, wanted))
    assert difference(found, wanted) < CLOSE
    for wrong in case.wrong:
        planted = tracked(sam, frames, case.prompts, replace(case.settings, **wrong))
        print("   ", wrong, difference(planted, wanted))
        assert difference(planted, wanted) > 10 * CLOSE, wrong
