"""Cold-start traces (VTS-CoT) from ground truth, for any data set with masks.

In sentences (`full`) a trace looks closer for what the frames shown so far leave open (`cot_data.traces.plan`), and
says no more than its frames show: it answers with the interval from the first to the last that show the target, and
marks the one that shows it best. `cot_data.traces.compact_style` has the other style.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from configs.load import ConfigError
from configs.schema import EnvConfig
from cot_data.formats.vts_cot import Message, Record, TraceStep
from cot_data.moving_shapes.labels import LabelledObject
from cot_data.traces.candidates import Scene, labelled_scene
from cot_data.traces.compact_style import brief_thoughts
from cot_data.traces.plan import frames_shown, plan_looks
from cot_data.traces.prose_style import Moment, think
from cot_data.traces.turn_text import Thought, write_turn
from cot_data.traces.visibility import NEARLY, best_frame, first_frames, see, visible_frames
from env.errors import DataError
from env.frames import sample_indices
from env.prompts import PROMPTS
from env.tools import enabled_tools
from env.types import Answer, Interval, Task, names_in


def write_trace(
    task: Task,
    config: EnvConfig,
    rng: np.random.Generator,
    style: str = "full",
    anno_id: tuple[int | str, ...] = (),
    objects: tuple[LabelledObject, ...] = (),
    zoom_share: float = 0.45,
) -> Record:
    """A dialogue that finds the target of `task` within `config.max_turns`; DataError where its masks are unknown.

    `style` is a key of `STYLES`; `zoom_share` is that of `cold_start`. With `objects` all of them are told of where
    they are seen, without them the target.
    """
    if not task.gold:
        raise DataError(f"task {task.task_id}", "expected gold masks to write a trace from, found none")
    return to_record(task, config, STYLES[style](task, config, rng, objects, zoom_share), anno_id)


def to_record(task: Task, config: EnvConfig, thoughts: Sequence[Thought], anno_id: tuple[int | str, ...]) -> Record:
    """The dialogue of these turns in the published form."""
    if not {"zoom", "key_frame"} <= set(config.tools):
        tools = ", ".join(config.tools)
        raise ConfigError(
            f"env.tools: written traces use zoom and key_frame, got {tools}; name both, or set data.traces"
        )
    video_name, exp_id = names_in(task.task_id)
    turns = [write_turn(thought) for thought in thoughts]
    whole = Interval(0, task.video.num_frames)
    return Record(
        video_name=video_name,
        frames=task.video.frames,
        exp=task.expression,
        anno_id=anno_id,
        sample_frame_indice=sample_indices(whole, config.detail_frames),
        round_num=len(turns),
        cot_trace=tuple(_numbers(thought) for thought in thoughts),
        conversations=_conversation(task, config, turns),
        exp_id=exp_id,
    )


def full_thoughts(
    task: Task, config: EnvConfig, rng: np.random.Generator, objects: tuple[LabelledObject, ...], zoom_share: float
) -> list[Thought]:
    """Looks and an answer in sentences. It looks wherever something is left open, whatever `zoom_share` is."""
    return explore(labelled_scene(task, objects), config, rng)


def explore(scene: Scene, config: EnvConfig, rng: np.random.Generator) -> list[Thought]:
    """The turns of a trace in sentences, from coarse to fine."""
    shown = set(new := first_frames(scene.task, config))
    thoughts: list[Thought] = []
    large: list[int] = []
    is_told = False
    for look in plan_looks(scene, config, rng):
        moment = Moment(scene, _ordered(shown), _ordered(new), look.select, look.reason, not thoughts, is_told)
        thoughts.append(Thought(think(moment), look.select))
        is_told = is_told or moment.named is not None
        new = frames_shown(scene.task.video, look.select, config) - shown or {look.select.key_frame}
        shown |= new
        large.append(look.select.key_frame)
    answer = answer_of(scene, shown, large)
    moment = Moment(scene, _ordered(shown), _ordered(new), answer, "", not thoughts, is_told)
    return [*thoughts, Thought(think(moment), answer)]


def answer_of(scene: Scene, shown: set[int], large: Sequence[int]) -> Answer:
    """What follows from the frames shown; a query that nothing answers to gets the whole video and its middle frame.

    Of the frames that were shown `large` the best stays the key frame if it is nearly as good as the best of all.
    """
    target, num_frames = scene.target, scene.task.video.num_frames
    if target is None:
        return Answer(Interval(0, num_frames), num_frames // 2)
    seen = target.seen_in(_ordered(shown))
    if not seen:  # no turn was left to look for it: what the masks say
        between = visible_frames(target.masks)
        return Answer(Interval(between[0], between[-1] + 1), best_frame(target.masks, shown, target.least))
    sights = see(target.masks, seen, target.least)
    whole = {t: sight.area for t, sight in sights.items() if not sight.is_cut}
    good = [t for t in large if t in whole and whole[t] >= NEARLY * max(whole.values())]
    key_frame = max(good, key=whole.__getitem__) if good else best_frame(target.masks, shown, target.least)
    return Answer(Interval(seen[0], seen[-1] + 1), key_frame)


def _ordered(frames: set[int] | tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted(frames))


def _numbers(thought: Thought) -> TraceStep:
    interval = thought.decision.interval
    return TraceStep(interval.start, interval.end - 1, thought.decision.key_frame)


def _conversation(task: Task, config: EnvConfig, turns: list[str]) -> tuple[Message, ...]:
    tools = enabled_tools(config).values()
    messages = [Message("system", PROMPTS[config.prompt].system([tool.help for tool in tools]))]
    for i, turn in enumerate(turns):
        messages.append(Message("human", "<image>" if i else f"<image>\n{task.expression}"))
        messages.append(Message("gpt", turn))
    return tuple(messages)


Style = Callable[[Task, EnvConfig, np.random.Generator, tuple[LabelledObject, ...], float], list[Thought]]
STYLES: dict[str, Style] = {
    "full": full_thoughts,
    "brief": brief_thoughts,
}
