"""Tracking from several conditioning frames, against the package's own video predictor with the same weights.

Differences are at most 1e-4 of the largest logit (1e-5 was measured), and every setting is shown to change the masks by
at least ten times as much.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from policy.sam.model import SegSam2
from policy.sam.prompts import MaskPrompt
from policy.sam.track_state import TrackSettings
from policy.sam.tracking import track_objects
from tests.helpers.sam_parts import (
    SAM,
    noise_frames,
    small_sam,
    stock_logits,
    stock_logits_apart,
    stock_predictor,
    track_videos,
    write_frames,
)

T = 20
STOCK = TrackSettings(order="one_state", memory_dtype=torch.bfloat16)
CLOSE = 1e-4


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
    switches: Mapping[str, object] = field(default_factory=dict)
    wrong: tuple[dict[str, Any], ...] = ()


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
    assert difference(found, wanted) < CLOSE
    for wrong in case.wrong:
        planted = tracked(sam, frames, case.prompts, replace(case.settings, **wrong))
        assert difference(planted, wanted) > 10 * CLOSE, wrong


@pytest.mark.parametrize("every_frame", [True, False])
def test_tracking_one_video_each_way_equals_the_video_predictor(
    sam: SegSam2, frames: list[np.ndarray], folder: Path, every_frame: bool, monkeypatch: pytest.MonkeyPatch
):
    """One language token on one key frame; the predictor starts anew for the way back. Its memories are bfloat16."""
    monkeypatch.setattr(sam, "built_from", replace(SAM, inject_every_frame=every_frame))
    prompt = MaskPrompt.language(noise(1, 32, seed=2))
    predictor = stock_predictor(sam)
    wanted, other = (
        stock_logits_apart(predictor, folder, 6, prompt, every) for every in (every_frame, not every_frame)
    )
    assert (wanted[6] - other[6]).abs().max() < 1e-6, "the key frame is prompted either way"
    assert difference(wanted, other) > 100 * CLOSE
    assert prompt.tokens_BNC is not None
    with torch.no_grad():
        ((logits_Thw, presence_T),) = track_videos(sam, [sam.encode_frames(frames)], prompt.tokens_BNC[:, 0], [6])
    found = F.interpolate(logits_Thw[:, None], (64, 64), mode="bilinear", align_corners=False)
    assert presence_T is not None and presence_T.min() > 0
    assert difference(found, wanted) < 10 * CLOSE
    rounded = TrackSettings(inject_every_frame=every_frame, memory_dtype=torch.bfloat16)
    assert difference(tracked(sam, frames, {6: prompt}, rounded), wanted) < CLOSE
    assert (wanted.amax(0) - wanted.amin(0)).max() > 0.1, "frames must differ, or the comparison says little"


@pytest.mark.parametrize("every_frame", [True, False])
@torch.no_grad()
def test_videos_tracked_side_by_side_equal_each_object_alone(
    sam: SegSam2, every_frame: bool, monkeypatch: pytest.MonkeyPatch
):
    """Of several lengths beyond the object pointers', with key frames at either end and between."""
    monkeypatch.setattr(sam, "built_from", replace(SAM, inject_every_frame=every_frame))
    prompts_NC = noise(3, 32, seed=7)
    frames = noise_frames(24)
    keys = (0, 22, 9)
    settings = TrackSettings(inject_every_frame=every_frame)
    videos = [sam.encode_frames(part) for part in (frames[:20], frames[1:24], frames[4:21])]
    together = track_videos(sam, videos, prompts_NC, keys)
    for at, (logits_Thw, presence_T) in enumerate(together):
        alone = track_objects(sam, videos[at], {keys[at]: MaskPrompt.language(prompts_NC[at : at + 1])}, settings)
        assert len(logits_Thw) == len(videos[at].levels[0])
        assert difference(logits_Thw, torch.cat([each.logits_NHW for each in alone])) < CLOSE
        assert presence_T is not None
        assert difference(presence_T, torch.cat([each.presence_N for each in alone])) < CLOSE
    assert (together[0][0][5] - together[1][0][5]).abs().max() > 1e-2


@torch.no_grad()
def test_the_switches_of_sam2_are_as_before(sam: SegSam2, frames: list[np.ndarray]):
    before = {name: value for name, value in vars(sam).items() if not name.startswith("_")}
    video = sam.encode_frames(frames[:2])
    settings = TrackSettings("forward", max_attended=2, multimask="always", binarize_prompted=True)
    track_objects(sam, video, {0: clicks((0.3, 0.4, 1))}, settings)
    with pytest.raises(RuntimeError):
        track_objects(sam, video, {0: MaskPrompt(noise(2, 1, 33, seed=1))}, settings)
    assert {name: value for name, value in vars(sam).items() if not name.startswith("_")} == before
    assert torch.equal(*(sam.decode(video, clicks((0.3, 0.4, 1))).logits_NHW for _ in range(2)))


@pytest.mark.parametrize(
    ("prompts", "settings", "message"),
    [
        ({}, TrackSettings(), "no conditioning frame: at least one frame needs a prompt"),
        ({5: squares()}, TrackSettings(), "conditioning frame 5 is outside the video of 2 frames"),
        ({0: squares(), 1: squares().first(1)}, TrackSettings(), r"prompts of \[1, 2\] objects"),
        (
            {0: squares()},
            TrackSettings(inject_every_frame=True),
            "exactly one conditioning frame, with language tokens",
        ),
    ],
)
def test_prompts_that_do_not_fit_are_refused(sam: SegSam2, prompts, settings: TrackSettings, message: str):
    with pytest.raises(ValueError, match=message):
        track_objects(sam, sam.encode_frames(noise_frames(2)), prompts, settings)


def test_one_attended_frame_is_refused():
    with pytest.raises(ValueError, match=r"expected -1 \(all\) or at least 2, got 1"):
        TrackSettings(max_attended=1)
