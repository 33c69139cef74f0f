"""The grammar of an action: text of the policy to a decision, and back. No other module knows it.

An action is one `<think>..</think>`, then exactly one block, `<select>` or `<answer>`, that holds
`<VTG>{"start": s, "end": e, "keyframe": k}</VTG>, <RefSeg>[SEG]</RefSeg>`; the VTG tags may be left out.
In the JSON, `end` is the last frame of the interval. The JSON of a `<select>` may also hold the arguments of the tools
that are enabled (`env.tools`). Whatever the model writes becomes a value, in linear time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from env.tools.base import Tool
from env.types import Answer, Decision, Interval, Malformed, Select

SEG = "[SEG]"
KEYS = ("start", "end", "keyframe")  # every action names them

REASONS: dict[str, str] = {
    "cut_off": "The action reached the token limit before its end.",
    "too_much_text": "The action is longer than any that is parsed.",
    "media_token": "The text holds a token that stands for an image or a video.",
    "control_token": "The text holds a control token of the chat format.",
    "no_seg": "The text holds no [SEG].",
    "many_segs": "The text holds more than one [SEG].",
    "no_block": "There is neither a <select> nor an <answer>.",
    "many_blocks": "There is more than one <select> or <answer>.",
    "tags": "Tags are missing, doubled, nested or out of order.",
    "outside_text": "There is text outside of the thinking, the JSON and [SEG].",
    "json": "The JSON object does not parse.",
    "keys": "The JSON object has missing, unknown or repeated keys.",
    "not_integer": "A value of the JSON object is not a whole number, or not as many of them as it should be.",
    "reversed": "The interval ends before it starts.",
    "out_of_range": "The interval or the key frame lies outside of the video, or an argument outside of its limits.",
}

_MAX_TEXT = 1 << 17  # characters
_MAX_JSON = 200  # characters; also bounds the digits that are converted
_END_TOKEN = "<|im_end|>"
_CONTROL = re.compile(r"<\|([a-z_]{1,32})\|>")
_MEDIA_NAMES = {"image_pad", "video_pad", "vision_start", "vision_end", "vision_pad"}
_TAG = re.compile(r"</?(?:think|select|answer|VTG|RefSeg)>|\[SEG\]")


class _Bad(Exception):
    """Carries a `Malformed` out of the parser's depths; never leaves this module."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason)
        self.decision = Malformed(reason, detail[:80])


def parse_action(
    text: str, num_frames: int, finish: str = "stop", tools: Iterable[Tool] = (), bounds: str = "refuse"
) -> Decision:
    """Return the decision that a text states, with its interval half-open. Never raises.

    Args:
        text: What the policy wrote.
        num_frames: Length of the video.
        finish: `Action.finish`; "length" makes the action malformed, whatever its text.
        tools: The tools whose own arguments a `<select>` may hold.
        bounds: `env.bounds`. With `clamp` the start, the end and the key frame are cut to whole numbers and moved to
            the nearest frame, and only then compared; with `refuse` one of them outside of the video is malformed.
    """
    tools = tuple(tools)
    try:
        if finish == "length":
            raise _Bad("cut_off")
        block, fields = _split(_checked(text))
        if block == "answer":
            return Answer(*_place(_read_json(fields, ()), num_frames, bounds))
        values = _read_json(fields, tools)
        place = _place(values, num_frames, bounds)
        return _within_limits(Select(*place, values), num_frames, tools)
    except _Bad as bad:
        return bad.decision


def format_decision(decision: Select | Answer) -> str:
    """Return the block that `parse_action` reads back as `decision`."""
    interval = decision.interval
    values: dict[str, Any] = dict(zip(KEYS, (interval.start, interval.end - 1, decision.key_frame), strict=True))
    block = "answer"
    if isinstance(decision, Select):
        block = "select"
        values |= {name: _json_value(numbers) for name, numbers in decision.arguments.items()}
    return f"<{block}><VTG>{json.dumps(values)}</VTG>, <RefSeg>{SEG}</RefSeg></{block}>"


def _json_value(numbers: Sequence[int]) -> int | list[int]:
    return numbers[0] if len(numbers) == 1 else list(numbers)


def _checked(text: str) -> str:
    """The text without its end token, free of all other control tokens."""
    if len(text) > _MAX_TEXT:
        raise _Bad("too_much_text", f"{len(text)} characters")
    text = text.strip().removesuffix(_END_TOKEN).strip()
    for token in _CONTROL.finditer(text):
        raise _Bad("media_token" if token[1] in _MEDIA_NAMES else "control_token", token[0])
    return text


def _split(text: str) -> tuple[str, str]:
    """(name of the block, its JSON text). The tags must come in exactly the order of the grammar."""
    tags = list(_TAG.finditer(text))
    names = [tag[0] for tag in tags]
    if names.count(SEG) != 1:
        raise _Bad("no_seg" if SEG not in names else "many_segs", f"{names.count(SEG)} found")
    blocks = [name.strip("<>") for name in names if name in ("<select>", "<answer>")]
    if len(blocks) != 1:
        raise _Bad("no_block" if not blocks else "many_blocks", " ".join(blocks))
    block = blocks[0]
    tail = ["<RefSeg>", SEG, "</RefSeg>", f"</{block}>"]
    head = ["<think>", "</think>", f"<{block}>"]
    if names not in (head + tail, [*head, "<VTG>", "</VTG>", *tail]):
        raise _Bad("tags", " ".join(names))
    gaps = [text[left.end() : right.start()] for left, right in pairwise(tags)]
    gaps = [text[: tags[0].start()], *gaps, text[tags[-1].end() :]]
    return block, _json_text(gaps, has_vtg="<VTG>" in names)


def _json_text(gaps: list[str], has_vtg: bool) -> str:
    """The JSON among the texts between the tags; the others, but for the thinking, must be blank."""
    # before <think> | thinking | before the block | (before <VTG> | JSON | comma) or (JSON, comma) | around [SEG] ..
    fixed = gaps[:1] + gaps[2:3]
    if has_vtg:
        before, fields, comma = gaps[3:6]
        fixed += [before, comma.strip().removeprefix(","), *gaps[6:]]
    else:
        fields = gaps[3].strip().removesuffix(",")
        fixed += gaps[4:]
    for gap in fixed:
        if gap.strip():
            raise _Bad("outside_text", gap.strip())
    return fields


def key_frame_in(text: str, num_frames: int, block: str) -> int | None:
    """Return the key frame of the last closed block of that name, in whatever text, as VideoSEG-O3 reads it.

    Args:
        text: What the policy wrote; the rest of it need not be well-formed.
        num_frames: Length of the video; the number is moved to the nearest frame.
        block: "select" or "answer".

    Returns:
        A source frame; None where no such block has a JSON object with a number as "keyframe".
    """
    before, closed, _ = text[:_MAX_TEXT].rpartition(f"</{block}>")
    _, opened, body = before.rpartition(f"<{block}>")
    if not (closed and opened):
        return None
    end = body.rfind("}") + 1
    fields = body[body.rfind("{", 0, end) : end]
    if not fields or len(fields) > _MAX_JSON:
        return None
    try:
        return _clamped(json.loads(fields)["keyframe"], num_frames)
    except (ValueError, KeyError, _Bad):
        return None


def _read_json(fields: str, tools: Iterable[Tool]) -> dict[str, tuple[Any, ...]]:
    """Return the values of each key: all of `KEYS`, and all or none of the arguments of each tool."""
    counts = {name: count for tool in tools for name, count in tool.arguments.items()}
    fields = fields.strip()
    # The object is flat but for the lists of arguments: the JSON parser cannot be made to recurse deeply.
    num_lists = sum(count > 1 for count in counts.values())
    if len(fields) > _MAX_JSON or fields[:1] != "{" or fields.count("{") > 1 or fields.count("[") > num_lists:
        raise _Bad("json", fields)
    try:
        pairs = json.loads(fields, object_pairs_hook=list)
    except ValueError as error:
        raise _Bad("json", str(error)) from error
    names = [name for name, _ in pairs]
    called = [tool for tool in tools if any(name in names for name in tool.arguments)]
    if sorted(names) != sorted({*KEYS, *(name for tool in called for name in tool.arguments)}):
        raise _Bad("keys", ", ".join(names))
    values = dict(pairs)
    own = {name: _numbers(name, values[name], count) for name, count in counts.items() if name in values}
    return {key: values[key] for key in KEYS} | own


def _numbers(name: str, value: Any, count: int) -> tuple[int, ...]:
    numbers = value if count > 1 else [value]
    # A bool is an int to isinstance.
    if not isinstance(numbers, list) or len(numbers) != count or any(type(number) is not int for number in numbers):
        raise _Bad("not_integer", f"{name} = {value!r}")
    return tuple(numbers)


def _clamped(value: Any, num_frames: int) -> int:
    """Return the frame nearest to a number, a text of digits or a truth value, which `int` reads in the release."""
    if not isinstance(value, int | float | str):
        raise _Bad("not_integer", repr(value))
    try:
        return min(max(int(value), 0), num_frames - 1)
    except (ValueError, OverflowError) as error:  # NaN, infinity, another text
        raise _Bad("not_integer", repr(value)) from error


def _place(values: dict[str, Any], num_frames: int, bounds: str) -> tuple[Interval, int]:
    """Take `KEYS` out of `values`; return the interval and the key frame that they name."""
    taken = {key: values.pop(key) for key in KEYS}
    if bounds == "clamp":
        start, last, key_frame = (_clamped(value, num_frames) for value in taken.values())
    else:
        start, last, key_frame = (_numbers(key, value, 1)[0] for key, value in taken.items())
    if start > last:
        raise _Bad("reversed", f"{start} to {last}")
    if start < 0 or last >= num_frames or not 0 <= key_frame < num_frames:
        raise _Bad("out_of_range", f"{start} to {last}, key frame {key_frame}, of {num_frames} frames")
    return Interval(start, last + 1), key_frame


def _within_limits(select: Select, num_frames: int, tools: Iterable[Tool]) -> Select:
    for tool in tools:
        if tool.is_called(select) and (problem := tool.problem(select, num_frames)):
            raise _Bad("out_of_range", problem)
    return select
