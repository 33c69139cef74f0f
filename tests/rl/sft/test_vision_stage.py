"""The `vision` stage of the cold start: the labels of each cell, whitened patches, and that naming is learned."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from configs.load import ConfigError, load_config
from configs.schema import StageConfig
from cot_data.moving_shapes.labels import LabelledVideo, load_objects
from cot_data.traces.visibility import place_in
from env.frames import FrameCache, frame_refs
from policy.videoseg.checkpoint import build_small, load_policy
from policy.videoseg.model import SegPolicy
from rl.runtime.journal import read_metrics
from rl.sft.vision_stage import NAMES, WORDS, cell_labels, train_vision, whiten_patches
from tests.helpers.rl_parts import Micro
from tests.helpers.sft_parts import stage_context


@pytest.fixture(scope="module")
def videos(micro: Micro) -> list[LabelledVideo]:
    return load_objects(micro.data)


@pytest.fixture
def policy(micro: Micro) -> Iterator[SegPolicy]:
    yield load_policy(micro.policy.with_name("untrained"))


def test_the_labels_of_a_cell_are_the_objects_that_cover_it(videos: list[LabelledVideo]) -> None:
    labels = 0
    for labelled in videos:
        for frame_idx in range(0, labelled.video.num_frames, 5):
            small = frame_refs(labelled.video, [frame_idx], "strip", 1024, 16)[0]
            for frame in (small, frame_refs(labelled.video, [frame_idx], "detail", 4096, 16)[0]):
                names, words = cell_labels(labelled, frame, 16)
                side = frame.width // 16
                assert names.shape == (side**2, len(NAMES)) and words.shape == (side**2, len(WORDS))
                for each in labelled.objects:
                    mask_HW = each.mask(frame_idx)
                    cells = np.zeros(side**2) if mask_HW is None else _pixels_per_cell(mask_HW, side)
                    np.testing.assert_array_equal(names[:, NAMES.index(each.caption)] > 0, cells >= 24)
                    said = (each.caption, *each.caption.split(), place_in(mask_HW)) if mask_HW is not None else ()
                    assert all(words[cells >= 24, WORDS.index(word)].all() for word in said)
                    labels += int((cells >= 24).sum())
                if frame is small:
                    assert not words[:, WORDS.index("checkered")].any(), "checks are invisible in small frames"
    assert labels > 20


def _pixels_per_cell(mask_HW: np.ndarray, side: int) -> np.ndarray:
    step = mask_HW.shape[0] // side
    blocks = [mask_HW[row * step :, col * step :][:step, :step].sum() for row in range(side) for col in range(side)]
    return np.array(blocks)


def test_whitened_patches_have_unit_variance_and_do_not_correlate(
    policy: SegPolicy, videos: list[LabelledVideo]
) -> None:
    frames = FrameCache()
    refs = [frame_refs(each.video, range(32), "detail", 4096, 16) for each in videos]
    picks = [(each, ref) for each, row in zip(videos, refs, strict=True) for ref in row]
    patches = np.concatenate([policy.layout.patchify(frames.pixels(each.video, ref)) for each, ref in picks])
    whiten_patches(policy, patches)
    with torch.no_grad():
        embedded_ND = policy.vlm.model.visual.patch_embed(torch.from_numpy(patches))
    covariance_DD = torch.cov(embedded_ND.double().T)
    assert embedded_ND.mean(0).abs().max() < 1e-3
    assert covariance_DD.diagonal().max() < 1.01 and covariance_DD.diagonal()[:4].min() > 0.9
    assert (covariance_DD - covariance_DD.diagonal().diag()).abs().max() < 0.01


def test_a_few_steps_train_the_naming_of_cells_and_nothing_else(
    policy: SegPolicy, micro: Micro, tmp_path: Path
) -> None:
    before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    stage = StageConfig("vision", steps=60, batch_size=8, lr=3e-3)
    train_vision(stage_context(policy, micro.config(tmp_path), stage))
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert rows[-1]["loss/words"] < 0.7 * rows[0]["loss/words"]
    changed = {name for name, tensor in policy.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed and all("visual" in name or "embed_tokens" in name or "lm_head" in name for name in changed)


@pytest.mark.parametrize(("key", "frozen"), [("freeze_vision", "visual"), ("freeze_embeddings", "embed_tokens")])
def test_only_what_is_loaded_can_be_frozen(micro: Micro, tmp_path: Path, key: str, frozen: str) -> None:
    """The tiny default keeps it fixed in GRPO, and the cold start before that has to train it nevertheless."""
    small = replace(load_config("tiny").policy, vision_hidden=32, vision_layers=1, hidden=32, layers=1)
    config = replace(small, **{"freeze_vision": False, "freeze_embeddings": False, key: True})
    built = build_small(config, ["the dark red shape"], seed=0)
    assert all(parameter.requires_grad for parameter in built.vlm.parameters())
    loaded = load_policy(micro.policy, config)
    kept = {name for name, parameter in loaded.vlm.named_parameters() if not parameter.requires_grad}
    assert kept == {name for name, _ in loaded.vlm.named_parameters() if frozen in name} != set()
    with pytest.raises(ConfigError, match=rf"stage `vision` trains what policy\.{key} keeps fixed"):
        train_vision(stage_context(loaded, micro.config(tmp_path), StageConfig()))
