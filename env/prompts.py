"""The words around the frames of an observation. `full` is for pretrained models, `brief` for tiny ones."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from string import ascii_lowercase, ascii_uppercase

from env.types import FrameRef

Parts = tuple[str | FrameRef, ...]
FrameRefs = Sequence[FrameRef]


@dataclass(frozen=True)
class Prompt:
    """One wording of the observations. How a tool's frames are worded stands in the tool's own entry (`env.tools`)."""

    system: Callable[[Sequence[str]], str]  # the system text (may be empty), given the lines of the enabled tools
    first: Callable[[str, int, FrameRefs, FrameRefs], Parts]  # query, number of frames, strip, detail
    ask_again: Callable[[str], Parts]  # the end of every later observation, given the query


def first_parts(prompt: Prompt, query: str, num_frames: int, strip: FrameRefs, detail: FrameRefs) -> Parts:
    """Return text and frames of the observation that opens an episode.

    Args:
        prompt: The wording.
        query: The expression, as the data set has it.
        num_frames: Length of the video.
        strip: The whole video as small frames.
        detail: Some large frames.
    """
    return _merge(prompt.first(clean_query(query), num_frames, strip, detail))


def next_parts(prompt: Prompt, query: str, shown: Iterable[str | FrameRef]) -> Parts:
    """Return text and frames of the observation that answers a select.

    Args:
        prompt: The wording.
        query: The expression, as the data set has it.
        shown: What the tools show, laid out in the same wording.
    """
    return _merge((*shown, *prompt.ask_again(clean_query(query))))


def clean_query(query: str) -> str:
    """Return the query as one line without image tokens, turn tokens, tags or [SEG]: queries come from data sets.

    A space after the bracket breaks `<|image_pad|>`, `<image>`, `</think>` and `[SEG]`.
    """
    printable = "".join(" " if unicodedata.category(char) in ("Cc", "Cs") else char for char in query)
    return re.sub(r"<(?=[|/A-Za-z])|\[(?=SEG\])", r"\g<0> ", " ".join(printable.split()))


def _full_system(tool_lines: Sequence[str]) -> str:
    tools = "".join(f"{line}\n" for line in tool_lines)
    return f"""\
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
<select><VTG>{{"start": 12, "end": 40, "keyframe": 25}}</VTG>, <RefSeg>[SEG]</RefSeg></select>
{tools}To answer:
<answer><VTG>{{"start": 12, "end": 40, "keyframe": 25}}</VTG>, <RefSeg>[SEG]</RefSeg></answer>
"start" and "end" are the first and the last frame of the interval that the query is about, "keyframe" the frame on \
which your [SEG] marks the object.

All three are whole numbers: frame indices of the video, counted from 0. Write [SEG] once a turn, there and nowhere \
else, and nothing after the block. The number of turns is limited: end with an answer."""


def _full_first(query: str, num_frames: int, strip: FrameRefs, detail: FrameRefs) -> Parts:
    return (
        *strip,
        f"\nSmall frames of the whole video ({len(strip)}), at the frame indices {index_list(strip)}.\n",
        *detail,
        f"\nLarge frames ({len(detail)}), at the frame indices {index_list(detail)}.\n",
        f'Query: "{query}"\nThe video has {num_frames} frames, 0 to {num_frames - 1}.',
    )


def _full_ask_again(query: str) -> Parts:
    return (f'Query: "{query}"\nLook closer again with <select>, or end with <answer>.',)


KEY_LABEL = "z"  # of the key frame that was asked for
STRIP_LETTERS = ascii_lowercase.replace(KEY_LABEL, "")
ZOOM_LETTERS = ascii_uppercase


def frame_labels(frame_indices: Iterable[int], letters: str = STRIP_LETTERS) -> dict[int, str]:
    """Return names for frames in order of time: a, b, .., y, aa, ab, ..

    A tiny model learns to tell 8 letters apart long before it can tell hundreds of numbers apart.
    """
    rounds = ("", *letters)
    return {t: rounds[i // len(letters)] + letters[i % len(letters)] for i, t in enumerate(sorted(set(frame_indices)))}


def _brief_first(query: str, num_frames: int, strip: FrameRefs, detail: FrameRefs) -> Parts:
    labels = frame_labels(frame.frame_idx for frame in (*strip, *detail))
    shown = [part for frame in (*strip, *detail) for part in (f" {labels[frame.frame_idx]} {frame.frame_idx}", frame)]
    return (f"{num_frames} frames |", *shown, f" | {query}")


def index_list(frames: FrameRefs) -> str:
    """Return the frame indices as the wordings write them: `[0, 33, 65]`."""
    return str([frame.frame_idx for frame in frames])


def _merge(parts: Parts) -> Parts:
    """Join texts that stand side by side, so that the tokenizer sees them as one text."""
    merged: list[str | FrameRef] = []
    for part in parts:
        if isinstance(part, str) and merged and isinstance(merged[-1], str):
            merged[-1] += part
        else:
            merged.append(part)
    return tuple(merged)


PROMPTS: dict[str, Prompt] = {
    "full": Prompt(_full_system, _full_first, _full_ask_again),
    "brief": Prompt(lambda tool_lines: "", _brief_first, lambda query: (f" | {query}",)),
}
