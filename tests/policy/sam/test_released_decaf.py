"""Points, mask prompts and tracking in one state against numbers computed by the released DecAF code.

DecAF, the predecessor of SteerSeg, decodes single clicks without memory, takes the best of three masks, and follows
some of these masks as mask prompts through the clip of key frames, both ways in one state.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from policy.sam.losses import binary_masks
from policy.sam.model import MEAN, STD, FrameFeatures, SegSam2
from policy.sam.prompts import MaskPrompt
from policy.sam.track_state import TrackSettings
from policy.sam.tracking import track_objects
from tests.helpers.sam_parts import filled_sam

SETTINGS = TrackSettings(order="one_state", multimask="always", binarize_prompted=True)


@pytest.fixture(scope="module")
def told(clips: Path) -> dict[str, Any]:
    path = clips / "oracle_seeds" / "steerseg.json"
    if not path.is_file():
        pytest.skip(f"left out: no numbers of the released code at {path}")
    return json.loads(path.read_text())["tracklets"][0]


@torch.no_grad()
def loaded(case: dict[str, Any]) -> tuple[SegSam2, FrameFeatures]:
    """The seeded SAM 2, changed so that it predicts objects present, and the features of the key frames."""
    sam = filled_sam(64, 1, case["seed"])
    decoder = sam.sam_mask_decoder
    decoder.pred_obj_score_head.layers[-1].bias += 3  # pyright: ignore
    decoder.iou_prediction_head.layers[-1].bias += 0.5  # pyright: ignore
    for mlp in decoder.output_hypernetworks_mlps:
        mlp.layers[-1].weight *= 3  # pyright: ignore
    blocks = np.random.default_rng(case["seed"]).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    frame = blocks.repeat(case["H"] // 8, 0).repeat(case["W"] // 8, 1)
    images = []
    for at in np.linspace(0, case["video_frames"] - 1, case["key_frames"]).astype(int):
        small = Image.fromarray(np.roll(frame, 3 * at, axis=1)).resize((128, 128))
        images.append((np.asarray(small, np.float32) / 255 - MEAN) / STD)
    return sam, sam.encode_images(torch.from_numpy(np.stack(images)).float().permute(0, 3, 1, 2))


def click(points: list[list[float]]) -> MaskPrompt:
    """One object per point."""
    places = torch.tensor(points)[:, None]
    return MaskPrompt(points_BP2=places, labels_BP=torch.ones(len(points), 1))


@torch.no_grad()
def areas(
    sam: SegSam2, video: FrameFeatures, key: int, masks: Tensor, settings: TrackSettings, case: dict[str, Any]
) -> list[int]:
    """Pixels of each tracklet over the whole clip."""
    tracked = track_objects(sam, video, {key: MaskPrompt(mask_BHW=masks)}, settings)
    found = [binary_masks(each.logits_NHW, each.presence_N, case["H"], case["W"]).sum((1, 2)) for each in tracked]
    return torch.stack(found).sum(0).tolist()


@torch.no_grad()
def test_clicks_and_tracklets(told: dict[str, Any]):
    """Predicted IoUs of all clicks, and areas of all tracklets to the pixel."""
    case = told["case"]
    sam, video = loaded(case)
    settings = {
        "right": SETTINGS,
        "two states": replace(SETTINGS, order="two_states"),
        "memories of probabilities": replace(SETTINGS, binarize_prompted=False),
        "one mask on tracked frames": replace(SETTINGS, multimask="prompted"),
    }
    found_areas = {name: [] for name in settings}
    for key, wanted in enumerate(told["frames"]):
        rows = torch.full((len(wanted["points"]),), key)
        found = sam.decode(video.pick(rows), click(wanted["points"]), multimask=True)
        assert np.abs(found.iou_N.numpy() - wanted["ious"]).max() < 1e-5
        scores = np.array(wanted["ious"]) + wanted["attn"]
        kept = [int(np.abs(scores - score).argmin()) for score in wanted["kept_scores"]]
        masks = binary_masks(found.logits_NHW, found.presence_N, case["H"], case["W"])[kept]
        for name, each in settings.items():
            found_areas[name] += areas(sam, video, key, masks, each, case)
    wanted_areas = [area for frame in told["frames"] for area in frame["tracklet_area"]]
    assert np.abs(np.array(found_areas.pop("right")) - wanted_areas).max() <= 2  # pixels at a logit of 0
    for name, planted in found_areas.items():
        assert np.abs(np.array(planted) - wanted_areas).max() > 20, name
