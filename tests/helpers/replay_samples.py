"""Trajectories built by hand for the tests of replay: real frames, real masks, no model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from configs.schema import EnvConfig
from env.actions import format_decision
from env.episode import VideoSegEnv
from env.frames import probe
from env.types import RLE, Action, Answer, Interval, Scores, Select, StopReason, Task, Trajectory, Turn
from tests.helpers.env_videos import write_folder

ATTACK = "<script>window.hacked=1</script><img src=x onerror=window.hacked=1>\"'</textarea>"
CONFIG = EnvConfig(strip_pixels=48 * 80, detail_pixels=48 * 80, zoom_pixels=48 * 80, key_pixels=48 * 80, size_factor=16)


def encode(mask_HW: np.ndarray) -> RLE:
    rle: Any = coco_mask.encode(np.asfortranarray(mask_HW.astype(np.uint8)))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")}


def box(top: int, left: int, bottom: int, right: int, height: int = 48, width: int = 80) -> RLE:
    """Return a mask that is set in `[top, bottom) x [left, right)`; all numbers are pixels."""
    mask_HW = np.zeros((height, width), np.uint8)
    mask_HW[top:bottom, left:right] = 1
    return encode(mask_HW)


def small_task(folder: Path, expression: str = "the bright box") -> Task:
    """Build a task of forty numbered frames of 80x48; the target is the same box on frames 10 to 19."""
    video = probe(folder if folder.is_dir() else write_folder(folder, 40))
    gold = tuple(box(8, 8, 24, 40) if 10 <= idx < 20 else None for idx in range(40))
    return Task(f"made/{expression[:20]}", video, expression, gold, family="appearance")


def clip_task(clip: Path, obj_id: int, expression: str) -> Task:
    """Build a task of one object of a real clip, with its real masks.

    Args:
        clip: folder with `frames` and `masks`.
        obj_id: value of the object's pixels in the masks.
        expression: the sentence.
    """
    gold = [encode(np.array(Image.open(path)) == obj_id) for path in sorted((clip / "masks").glob("*.png"))]
    return Task(f"clips/{clip.name}/{obj_id}", probe(clip / "frames"), expression, tuple(gold), family="appearance")


def episode(
    task: Task,
    texts: list[str],
    masks: dict[int, RLE],
    step: int = 0,
    sibling: int = 0,
    config: EnvConfig = CONFIG,
    scores: Scores | None = None,
) -> Trajectory:
    """Step the real environment with `texts`; every turn gets log-probs, and a key mask where `masks` has one.

    Args:
        task: the task.
        texts: the action of each turn.
        masks: predicted masks by frame index.
        step, sibling: training step and number in the group; they also seed the log-probs.
        config: settings of the environment.
        scores: scores of the trajectory, if it has been scored.
    """
    env = VideoSegEnv(task, config)
    trajectory = Trajectory(f"{step}/{task.task_id}/{sibling}", task, step, sibling, masks=masks, scores=scores)
    observation = env.first_observation()
    rng = np.random.default_rng(step * 100 + sibling)
    for text in texts:
        assert observation is not None
        length = len(text.split()) + 20
        logprobs = -rng.exponential(0.4, length) * (rng.random(length) < 0.4)
        noise = rng.normal(size=length) * 10 ** rng.uniform(-7, -3, length)
        action = Action(text, tuple(range(length)), tuple(logprobs.tolist()), weights_version=step)
        result = env.step(action)
        turn = Turn(observation, action, result.decision, old_logprobs=tuple((logprobs + noise).tolist()))
        if isinstance(turn.decision, Select | Answer):
            turn.key_mask = masks.get(turn.decision.key_frame)
            turn.mask_logprob = -0.25
        trajectory.turns.append(turn)
        observation = result.observation
        trajectory.stop_reason = result.stop_reason or StopReason.ERROR
    return trajectory


def select_text(start: int, last: int, key_frame: int, thinking: str = "Step 1. Look closer.") -> str:
    return f"<think>{thinking}</think>\n{format_decision(Select(Interval(start, last + 1), key_frame))}"


def answer_text(start: int, last: int, key_frame: int, thinking: str = "Step 1. It is there.") -> str:
    return f"<think>{thinking}</think>\n{format_decision(Answer(Interval(start, last + 1), key_frame))}"
