"""The masks that the learner decodes: the rules on turns written by hand, and all three with the shipped policy."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from configs.load import ConfigError, load_config
from cot_data.datasets import load_tasks
from cot_data.traces.dialogue import to_trajectory
from cot_data.traces.write import write_trace
from env.frames import FrameCache, FrameCaches
from env.spacing import whole_video
from env.types import FrameRef, Observation, Select, StopReason, Trajectory
from policy import SHIPPED
from policy.videoseg.checkpoint import load_policy
from policy.videoseg.tracking import with_masks
from policy.vlm.batch import TokenSequence
from rewards import PROFILES, REWARDS, score
from rl.evaluation.trajectory_metrics import measure
from rl.learner.learner import LocalLearner
from rl.learner.mask_targets import mask_targets
from tests.helpers.reward_cases import MALFORMED, answer, select, trajectory
from tests.helpers.rl_parts import write_shapes

pytestmark = pytest.mark.timeout(600)


def with_segs(item: Trajectory, *seg_turns: int) -> tuple[Trajectory, TokenSequence]:
    """Return the trajectory with a [SEG] in each of these turns, at positions 10, 11, ..."""
    positions = tuple(range(10, 10 + len(seg_turns)))
    return item, TokenSequence(item.task.video, (), (), (), (), positions, seg_turns)


def with_zoom(texts: list[str], stop: StopReason = StopReason.ANSWERED) -> Trajectory:
    """Build a trajectory whose second turn was shown key frame 7."""
    item = trajectory(texts, stop)
    if len(texts) > 1:
        item.turns[1].observation = Observation(("seen", FrameRef(2, 8, 8, "zoom"), FrameRef(7, 8, 8, "key")))
    return item


ZOOMED = with_zoom([select(key_frame=7), answer(key_frame=3)])
CUT_OFF = with_zoom([select(key_frame=7), "[SEG]"], MALFORMED)
AT_ONCE = with_zoom([answer(key_frame=3)])

# (prompt row, column, turn, frame, is_key, is_answer), by rule and number of frames.
ROWS = [
    (
        ("sampled", 4, with_segs(ZOOMED, 0, 1)),
        [(0, 10, 0, 7, True, False), (1, 11, 1, 3, True, True)]
        + [(1, 11, 1, frame, False, True) for frame in (0, 3, 6, 9)],
    ),
    (
        ("released", 5, with_segs(ZOOMED, 0, 1)),
        [(0, 10, 0, 5, True, False), (1, 11, 1, 7, True, False)]
        + [(1, 11, 1, frame, False, True) for frame in (0, 2, 4, 6, 9)],
    ),
    (("sampled", 4, with_segs(CUT_OFF, 0, 1)), [(0, 10, 0, 7, True, False)]),
    (
        ("released", 1, with_segs(CUT_OFF, 0, 1, 1)),  # the last of two [SEG]
        [(0, 10, 0, 5, True, False), (2, 12, 1, 7, True, False), (2, 12, 1, 0, False, True)],
    ),
    (("released", 5, with_segs(CUT_OFF, 0)), [(0, 10, 0, 5, True, False)]),
    (("released", 1, with_segs(AT_ONCE, 0)), [(0, 10, 0, 5, True, False), (0, 10, 0, 0, False, True)]),
    (("tracked", 1, with_segs(AT_ONCE, 0)), [(0, 10, 0, 3, True, True), (0, 10, 0, 5, False, True)]),
]


@pytest.mark.parametrize(("case", "expected"), ROWS)
def test_targets_of_one_episode(case: tuple, expected: list[tuple]):
    masks, num_frames, pair = case
    found = mask_targets([pair], masks, num_frames)
    assert [(t.prompt_row, t.column, t.turn, t.frame_idx, t.is_key, t.is_answer) for t in found] == expected


def test_prompts_are_counted_through_the_batch():
    found = mask_targets([with_segs(CUT_OFF, 0, 1, 1), with_segs(AT_ONCE, 0)], "sampled", 1)
    assert [(t.sample, t.prompt_row, t.frame_idx) for t in found] == [(0, 0, 7), (1, 3, 3), (1, 3, 5)]


@pytest.mark.parametrize(
    ("num_frames", "expected"),
    [(1, (0,)), (6, (0, 1, 2, 3, 4, 5)), (7, (0, 1, 3, 4, 6)), (10, (0, 2, 4, 6, 9)), (100, (0, 24, 49, 74, 99))],
)
def test_released_frames(num_frames: int, expected: tuple[int, ...]):
    """Equal np.linspace(0, num_frames - 1, 5, dtype=int), or all frames."""
    assert whole_video(num_frames, 5, "down") == expected
    assert num_frames <= 6 or expected == tuple(np.linspace(0, num_frames - 1, 5, dtype=int))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[Trajectory]:
    """Return traces of two tasks, one of which zooms first, as if the policy had written them."""
    env = load_config("tiny").env
    tasks = list(load_tasks("mevis", write_shapes(tmp_path_factory.mktemp("masks") / "data", videos=2)))
    rng = np.random.default_rng(0)
    items = [to_trajectory(write_trace(task, env, rng, "brief"), task, env) for task in tasks]
    at_once = next(item for item in items if len(item.turns) == 1)
    return [at_once, next(item for item in items if len(item.turns) > 1)]


def scored(written: list[Trajectory], masks: str) -> list[Trajectory]:
    items = copy.deepcopy(written)
    config = load_config("tiny", ["grpo.kl_coef=0", f"grpo.masks={masks}"])
    LocalLearner(load_policy(SHIPPED), config, FrameCaches(FrameCache(), FrameCache())).fill_logprobs_and_masks(items)
    return items


def test_tracked_masks_are_those_of_inference(written: list[Trajectory]):
    expected = with_masks(load_policy(SHIPPED), copy.deepcopy(written), FrameCaches(FrameCache(), FrameCache()))
    for ours, theirs, plain in zip(scored(written, "tracked"), expected, scored(written, "sampled"), strict=True):
        assert sorted(ours.masks) == list(range(ours.task.video.num_frames))
        assert ours.masks == theirs.masks
        assert ours.turns[-1].key_mask == theirs.turns[-1].key_mask
        assert REWARDS["tracklet_jf"](ours) == pytest.approx(measure(theirs)["jf"], abs=1e-12)
        assert len(plain.masks) <= load_config("tiny").grpo.mask_frames + 1
        assert [turn.mask_logprob for turn in ours.turns] == pytest.approx([turn.mask_logprob for turn in plain.turns])
        assert score(ours, PROFILES["default"]).total > 1.5


def test_without_seg_in_its_last_turn_an_answer_has_no_track(written: list[Trajectory]):
    """The prompt of an earlier turn is not the answer's."""
    items = copy.deepcopy(written)
    zoomed = items[1]
    turn = zoomed.turns[-1]
    text = turn.action.text.replace("[SEG]", "")
    assert "[SEG]" in zoomed.turns[0].action.text and text != turn.action.text
    turn.action = replace(turn.action, text=text)
    assert not scored([zoomed], "tracked")[0].masks and not scored([zoomed], "sampled")[0].masks
    assert scored([written[1]], "tracked")[0].masks


def test_released_masks_are_on_the_frames_that_were_shown(written: list[Trajectory]):
    for ours, plain in zip(scored(written, "released"), scored(written, "sampled"), strict=True):
        num_frames = ours.task.video.num_frames
        assert sorted(ours.masks) == list(whole_video(num_frames, load_config("tiny").grpo.mask_frames, "down"))
        assert ours.turns[0].key_mask_frame == num_frames // 2
        for before, turn in pairwise(ours.turns):
            assert isinstance(before.decision, Select) and turn.key_mask_frame == before.decision.key_frame
        assert all(turn.mask_frame is None for turn in plain.turns)
        score(ours, PROFILES["videoseg_o3"])


def test_an_unknown_rule_or_reward_is_refused_before_the_first_rollout():
    config = load_config("tiny")
    for changed, message in (
        (replace(config, grpo=replace(config.grpo, masks="all")), "grpo.masks: unknown 'all'; known are sampled"),
        (replace(config, rewards={"jf": 1.0}), "rewards: unknown jf; known are format"),
        (replace(config, rewards={"turn_cost": 1.0}), "rewards.turn_cost: expected less than"),
    ):
        with pytest.raises(ConfigError, match=message):
            LocalLearner(load_policy(SHIPPED), changed, FrameCaches(FrameCache(), FrameCache()))
