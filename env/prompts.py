"""The words around the frames of an observation. `full` is for pretrained models, `brief` for tiny ones."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase

import numpy as np

from configs.names import unknown_name
from configs.prompt_file import FILE_NAME, PLACEHOLDER, IndexList, Prompt, is_file_name, prompt_text, read_prompt
from env.errors import ConfigError
from env.types import FrameRef, Select

Parts = tuple[str | FrameRef, ...]
FrameRefs = Sequence[FrameRef]
Values = Mapping[str, str | Parts]  # placeholder -> what is put in its place

KEY_LABEL = "z"  # of the key frame that was asked for
STRIP_LETTERS = ascii_lowercase.replace(KEY_LABEL, "")
ZOOM_LETTERS = ascii_uppercase


def find_prompt(name: str) -> Prompt:
    """Return the built-in prompt of that name, or the prompt in a file. ConfigError where there is none."""
    if is_file_name(name):
        return _read_once(name)
    if name not in PROMPTS:
        raise ConfigError(unknown_name("env.prompt", name, PROMPTS))
    return PROMPTS[name]


@lru_cache(maxsize=64)
def _read_once(file: str) -> Prompt:
    """Read a file once a process: all episodes of a run have the same words, whatever happens to the file."""
    return read_prompt(Path(file))


def prompt_of(checkpoint: Path, name: str) -> str:
    """Return the `env.prompt` with which a checkpoint is run: that of the file in its folder, or `name` without a file.

    A file with the words of a built-in prompt has that one's name, any other its absolute path.
    """
    file = checkpoint / FILE_NAME
    if not file.is_file():
        return str(Path(name).resolve()) if is_file_name(name) else name
    prompt = _read_once(str(file.resolve()))
    return next((known for known, words in PROMPTS.items() if words == prompt), str(file.resolve()))


def prompt_identity(name: str) -> str:
    """Return what tells the words of an `env.prompt` from others: the name of a built-in one, or a hash of a file."""
    if not is_file_name(name):
        return name
    return f"sha256:{hashlib.sha256(prompt_text(find_prompt(name)).encode()).hexdigest()}"


def first_parts(prompt: Prompt, query: str, num_frames: int, strip: FrameRefs, detail: FrameRefs) -> Parts:
    """Return text and frames of the observation that opens an episode.

    Args:
        prompt: The wording.
        query: The expression, as the data set has it.
        num_frames: Length of the video.
        strip: The whole video as small frames.
        detail: Some large frames.
    """
    labels = frame_labels(frame.frame_idx for frame in (*strip, *detail))
    values: dict[str, str | Parts] = dict(_of_task(query, num_frames))
    for name, frames in {"strip": strip, "detail": detail}.items():
        values[name] = _images(prompt, name, frames, labels)
        values[f"{name}_count"] = str(len(frames))
        values[f"{name}_indices"] = _index_list(prompt, name, frames)
    return _fill(prompt.first, values)


def later_parts(
    prompt: Prompt, query: str, num_frames: int, select: Select, shown: Iterable[tuple[str, str, FrameRefs]]
) -> Parts:
    """Return text and frames of the observation that answers a select.

    Args:
        prompt: The wording.
        query: The expression, as the data set has it.
        num_frames: Length of the video.
        select: What the policy asked for.
        shown: (name, text, frames) of each tool that it calls; `text` is the tool's own where the prompt has none.
    """
    of_task = _of_task(query, num_frames)
    parts: list[str | FrameRef] = []
    for name, text, frames in shown:
        labels = frame_labels((frame.frame_idx for frame in frames), ZOOM_LETTERS)
        values: dict[str, str | Parts] = {
            **of_task,
            "images": _images(prompt, name, frames, labels),
            "count": str(len(frames)),
            "indices": _index_list(prompt, name, frames),
            "start": str(select.interval.start),
            "end": str(select.interval.end - 1),
            "key_frame": str(select.key_frame),
            "arguments": ", ".join(str(list(numbers)) for numbers in select.arguments.values()),
        }
        parts += _fill(prompt.later.get(name, text), values)
    return _merge((*parts, *_fill(prompt.reminder, of_task)))


def system_text(prompt: Prompt, tool_lines: Iterable[str]) -> str:
    """Return the system text (it may be empty), given the lines of the enabled tools."""
    return _as_text(prompt.system, {"tools": "".join(f"{line}\n" for line in tool_lines)})


def clean_query(query: str) -> str:
    """Return the query as one line without image tokens, turn tokens, tags or [SEG]: queries come from data sets.

    A space after the bracket breaks `<|image_pad|>`, `<image>`, `</think>` and `[SEG]`.
    """
    printable = "".join(" " if unicodedata.category(char) in ("Cc", "Cs") else char for char in query)
    return re.sub(r"<(?=[|/A-Za-z])|\[(?=SEG\])", r"\g<0> ", " ".join(printable.split()))


def frame_labels(frame_indices: Iterable[int], letters: str = STRIP_LETTERS) -> dict[int, str]:
    """Return names for frames in order of time: a, b, .., y, aa, ab, ..

    A tiny model learns to tell 8 letters apart long before it can tell hundreds of numbers apart.
    """
    rounds = ("", *letters)
    return {t: rounds[i // len(letters)] + letters[i % len(letters)] for i, t in enumerate(sorted(set(frame_indices)))}


def _of_task(query: str, num_frames: int) -> dict[str, str]:
    return {"query": clean_query(query), "num_frames": str(num_frames), "last_frame": str(num_frames - 1)}


def _images(prompt: Prompt, name: str, frames: FrameRefs, labels: Mapping[int, str]) -> Parts:
    """Return the images of one list in the prompt's layout."""
    layout, between = prompt.images.get(name, "{image}"), prompt.between.get(name, "")
    parts: list[str | FrameRef] = []
    for number, frame in enumerate(frames):
        values: Values = {"image": (frame,), "index": str(frame.frame_idx), "letter": labels[frame.frame_idx]}
        parts += (between if number else "", *_fill(layout, values))
    return tuple(parts)


def _index_list(prompt: Prompt, name: str, frames: FrameRefs) -> str:
    """Return the frame indices of a list in the prompt's form."""
    form, indices = prompt.indices.get(name, IndexList()), [frame.frame_idx for frame in frames]
    if form.is_array:
        return str(np.array(indices, dtype=int))
    items = (_as_text(form.item, {"index": str(frame_idx)}) for frame_idx in indices)
    return form.open + form.separator.join(items) + form.close


def _fill(text: str, values: Values) -> Parts:
    """Return a text with its placeholders filled. What is put in is not searched for placeholders again."""
    parts: list[str | FrameRef] = []
    at = 0
    for match in PLACEHOLDER.finditer(text):
        value = values[match[2]] if match[2] else f"{{{match[1]}}}"
        parts += (text[at : match.start()], *((value,) if isinstance(value, str) else value))
        at = match.end()
    return _merge((*parts, text[at:]))


def _as_text(text: str, values: Mapping[str, str]) -> str:
    """Return a text without images with its placeholders filled."""
    return "".join(str(part) for part in _fill(text, values))


def _merge(parts: Parts) -> Parts:
    """Join texts that stand side by side, so that the tokenizer sees them as one text; leave empty ones out."""
    merged: list[str | FrameRef] = []
    for part in parts:
        if isinstance(part, str) and merged and isinstance(merged[-1], str):
            merged[-1] += part
        elif part != "":
            merged.append(part)
    return tuple(merged)


_FULL_SYSTEM = """\
You watch a video and find the one object that a text query refers to: when it is there, and where. You mark it with \
[SEG], which a segmentation model turns into a mask on your key frame and follows through the whole video.

You first see the whole video as small frames spread evenly over time, then a few large frames, each with its frame \
index. You may look closer before you answer. In every turn, first think, then act once.

Thinking goes between <think> and </think>, in three steps and a conclusion:
Step 1 (temporal): when does what the query says happen? Which frames show it?
Step 2 (spatial): where is the object in those frames, and in which frame can it be seen best?
Step 3 (linguistic): does the object fit every word of the query, and do its look-alikes not?
Action: look closer, or answer, and why.

Acting is exactly one of two blocks.
To look closer:
<select><VTG>{"start": 12, "end": 40, "keyframe": 25}</VTG>, <RefSeg>[SEG]</RefSeg></select>
{tools}To answer:
<answer><VTG>{"start": 12, "end": 40, "keyframe": 25}</VTG>, <RefSeg>[SEG]</RefSeg></answer>
"start" and "end" are the first and the last frame of the interval that the query is about, "keyframe" the frame on \
which your [SEG] marks the object.

All three are whole numbers: frame indices of the video, counted from 0. Write [SEG] once a turn, there and nowhere \
else, and nothing after the block. The number of turns is limited: end with an answer."""

PROMPTS: dict[str, Prompt] = {
    "full": Prompt(
        system=_FULL_SYSTEM,
        first=(
            "{strip}\nSmall frames of the whole video ({strip_count}), at the frame indices {strip_indices}.\n"
            "{detail}\nLarge frames ({detail_count}), at the frame indices {detail_indices}.\n"
            'Query: "{query}"\nThe video has {num_frames} frames, 0 to {last_frame}.'
        ),
        later={
            "zoom": "{images}\nSmall frames from {start} to {end} ({count}), at the frame indices {indices}.\n",
            "key_frame": "{images}\nKey frame {key_frame}, large.\n",
        },
        reminder='Query: "{query}"\nLook closer again with <select>, or end with <answer>.',
    ),
    "brief": Prompt(
        first="{num_frames} frames |{strip}{detail} | {query}",
        later={"zoom": "{start} to {end} |{images}", "key_frame": f" | {KEY_LABEL} {{key_frame}}{{images}}"},
        reminder=" | {query}",
        images=dict.fromkeys(("strip", "detail", "zoom"), " {letter} {index}{image}"),
        traces="brief",
    ),
}
