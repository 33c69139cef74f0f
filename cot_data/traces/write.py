"""Write cold-start traces (VTS-CoT) from ground truth masks, for any data set.

A trace in sentences (style `full`) zooms on what the frames shown so far leave open (`cot_data.traces.plan`) and states
only what its frames show. It answers with the interval from the first to the last shown frame that shows the target,
and its key frame is the one that shows the target best. The style `brief` is in `cot_data.traces.compact_style`. Both
are named after the built-in prompt that they go with; a prompt in a file names its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from configs.load import ConfigError
from configs.names import unknown_name
from configs.schema import EnvConfig
from cot_data.formats.vts_cot import Message, Record, TraceStep
from cot_data.moving_shapes.labels import LabelledObject
from cot_data.traces.candidates import Scene, labelled_scene
from cot_data.traces.compact_style import compact_turns
from cot_data.traces.plan import frames_shown, plan_zooms
from cot_data.traces.prose_style import TurnState, write_thinking
from cot_data.traces.turn_text import Thought, write_turn
from cot_data.traces.visibility import NEARLY_LARGEST, best_frame, first_frames, object_views, visible_frames
from env.errors import DataError
from env.prompts import find_prompt, system_text
from env.spacing import detail_frames
from env.tools import enabled_tools
from env.types import Answer, Interval, Task, names_in


def write_trace(
    task: Task,
    config: EnvConfig,
    rng: np.random.Generator,
    style: str = "full",
    objects: tuple[LabelledObject, ...] = (),
    zoom_share: float = 0.45,
) -> Record:
    """Write a dialogue that finds the target of a task.

    Args:
        task: a task with known masks.
        config: frames per observation and the most turns.
        rng: decides whether to zoom where that is optional.
        style: a key of `STYLES`.
        objects: all labelled objects of the video, which the trace mentions too; if empty, it mentions the target only.
        zoom_share: probability of a zoom in the style `brief`, see `cold_start.zoom_share`.

    Returns:
        A record of at most `config.max_turns` turns, without `anno_id`.

    Raises:
        ConfigError: the style is unknown.
        DataError: the task's masks are unknown.
    """
    if style not in STYLES:
        raise ConfigError(unknown_name("env.prompt", style, STYLES))
    if not task.gold:
        raise DataError(f"task {task.task_id}", "expected gold masks to write a trace from, found none")
    return to_record(task, config, STYLES[style](task, config, rng, objects, zoom_share))


def to_record(
    task: Task, config: EnvConfig, thoughts: Sequence[Thought], anno_id: tuple[int | str, ...] = ()
) -> Record:
    """Put the turns of a trace into the published form.

    Args:
        task: the task of the trace.
        config: names the prompt, and how many large frames the first observation has.
        thoughts: one per turn, the answer last.
        anno_id: keys of the target's masks in the mask dictionary; empty where the data set has none.

    Returns:
        The record.

    Raises:
        ConfigError: `env.tools` lacks a tool that written traces use.
    """
    if not {"zoom", "key_frame"} <= set(config.tools):
        tools = ", ".join(config.tools)
        raise ConfigError(
            f"env.tools: written traces use zoom and key_frame, got {tools}; name both, or set data.traces"
        )
    video_name, exp_id = names_in(task.task_id)
    turns = [write_turn(thought) for thought in thoughts]
    return Record(
        video_name=video_name,
        frames=task.video.frames,
        exp=task.expression,
        anno_id=anno_id,
        sample_frame_indice=detail_frames(task.video.num_frames, config),
        round_num=len(turns),
        cot_trace=tuple(_trace_step(thought) for thought in thoughts),
        conversations=_conversation(task, config, turns),
        exp_id=exp_id,
    )


def labelled_prose_turns(
    task: Task, config: EnvConfig, rng: np.random.Generator, objects: tuple[LabelledObject, ...], zoom_share: float
) -> list[Thought]:
    """Return the turns of a trace in sentences, with labelled objects as candidates.

    Args:
        task: a task with known masks.
        config: frames per observation and the most turns.
        rng: decides on an optional zoom.
        objects: all objects of the video; if empty, the target is the only candidate.
        zoom_share: not used: it zooms wherever something is left open.

    Returns:
        One thought per turn, the answer last.
    """
    return prose_turns(labelled_scene(task, objects), config, rng)


def prose_turns(scene: Scene, config: EnvConfig, rng: np.random.Generator) -> list[Thought]:
    """Return the turns of a trace in sentences, from coarse to fine.

    Args:
        scene: the task and its candidates.
        config: frames per observation and the most turns.
        rng: decides on an optional zoom.

    Returns:
        One thought per turn, the answer last.
    """
    shown = set(new := first_frames(scene.task, config))
    thoughts: list[Thought] = []
    large: list[int] = []
    was_named = False
    for zoom in plan_zooms(scene, config, rng):
        turn = TurnState(scene, _ordered(shown), _ordered(new), zoom.select, zoom.reason, not thoughts, was_named)
        thoughts.append(Thought(write_thinking(turn), zoom.select))
        was_named = was_named or turn.known_target is not None
        new = frames_shown(scene.task.video, zoom.select, config) - shown or {zoom.select.key_frame}
        shown |= new
        large.append(zoom.select.key_frame)
    answer = final_answer(scene, shown, large)
    turn = TurnState(scene, _ordered(shown), _ordered(new), answer, "", not thoughts, was_named)
    return [*thoughts, Thought(write_thinking(turn), answer)]


def final_answer(scene: Scene, shown: set[int], large: Sequence[int]) -> Answer:
    """Return the answer that follows from the frames shown.

    Args:
        scene: the task and its target.
        shown: indices of all frames shown.
        large: those shown as key frames; the best of them stays the key frame if it is nearly as good as any.

    Returns:
        The interval from the first to the last shown frame of the target; the whole video and its middle frame where
        nothing matches the query.
    """
    target, num_frames = scene.target, scene.task.video.num_frames
    if target is None:
        return Answer(Interval(0, num_frames), num_frames // 2)
    seen = target.visible_in(_ordered(shown))
    if not seen:  # no turn was left to search for it: use the masks
        between = visible_frames(target.masks)
        return Answer(Interval(between[0], between[-1] + 1), best_frame(target.masks, shown, target.min_area))
    views = object_views(target.masks, seen, target.min_area)
    whole = {t: view.area for t, view in views.items() if not view.is_cut}
    good = [t for t in large if t in whole and whole[t] >= NEARLY_LARGEST * max(whole.values())]
    key_frame = max(good, key=whole.__getitem__) if good else best_frame(target.masks, shown, target.min_area)
    return Answer(Interval(seen[0], seen[-1] + 1), key_frame)


def _ordered(frames: set[int] | tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted(frames))


def _trace_step(thought: Thought) -> TraceStep:
    interval = thought.decision.interval
    return TraceStep(interval.start, interval.end - 1, thought.decision.key_frame)


def _conversation(task: Task, config: EnvConfig, turns: list[str]) -> tuple[Message, ...]:
    tools = enabled_tools(config).values()
    messages = [Message("system", system_text(find_prompt(config.prompt), [tool.help for tool in tools]))]
    for i, turn in enumerate(turns):
        messages.append(Message("human", "<image>" if i else f"<image>\n{task.expression}"))
        messages.append(Message("gpt", turn))
    return tuple(messages)


Style = Callable[[Task, EnvConfig, np.random.Generator, tuple[LabelledObject, ...], float], list[Thought]]
STYLES: dict[str, Style] = {
    "full": labelled_prose_turns,
    "brief": compact_turns,
}
