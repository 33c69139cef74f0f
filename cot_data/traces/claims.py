"""The statements of a trace that masks can confirm or refute: how each is worded, and how it is read back from text.

A statement is a short phrase with frames in it ("on the left in frames 4 and 8"), whatever words stand around it, so a
trace may be worded freely as long as its phrases stay whole. Its subject is the object that was named last. A phrase
that ends in "there" is about the frame that was said last. `loose_ends` finds what looks like a statement and is none
that can be read: numbers, places, directions, changes, negations.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

PLACE_PHRASES = {
    "upper left": "on the upper left",
    "upper": "at the top",
    "upper right": "on the upper right",
    "left": "on the left",
    "center": "in the center",
    "right": "on the right",
    "lower left": "on the lower left",
    "lower": "at the bottom",
    "lower right": "on the lower right",
}
UNTOLD = "cannot be told yet"
_PLACES = {phrase: place for place, phrase in PLACE_PHRASES.items()}
_LIST = r"frames? (\d{1,6}(?:(?:, | and |, and )\d{1,6})*)"
_WAY = r"to the (?:left|right)(?: and (?:up|down))?|up|down"
_AT = r"(?:in frame (\d{1,6})|there)"
_FROM = r"from frame (\d{1,6}) to frame (\d{1,6})"
_FIRST_NAME, _MOST_NAMES, _QUOTE = 0xE000, 0x100, "\ue100"  # private characters, which stand for names and quotes
_NAME = r"[\ue000-\ue0ff]+"


@dataclass(frozen=True)
class Claim:
    """One statement: `kind` is a key of `PATTERNS`, `who` the name of its subject ("" where it has none)."""

    kind: str
    who: str = ""
    frames: tuple[int, ...] = ()
    value: str = ""  # a place, a direction, a number, or what is quoted
    other: str = ""  # name of a second object


@dataclass(frozen=True)
class Reading:
    """What was read from a text: the claims in order, and the spans [start, end) that may not be reworded."""

    claims: tuple[Claim, ...]
    spans: tuple[tuple[int, int], ...]
    loose_ends: tuple[str, ...]


# Of each kind the phrase as it is read. Unnamed groups hold frames.
PATTERNS: dict[str, str] = {
    "at": rf"(?P<value>{'|'.join(sorted(_PLACES, key=len, reverse=True))}) (?:in {_LIST}|there)",
    "absent": rf"not in {_LIST}",
    "entry": r"into view between frames (\d{1,6}) and (\d{1,6})",
    "exit": r"out of view between frames (\d{1,6}) and (\d{1,6})",
    "motion": rf"(?P<value>{_WAY}|almost still) {_FROM}",
    "growth": r"(?P<value>larger|smaller) in frame (\d{1,6}) than in frame (\d{1,6})",
    "size": r"(?:takes? up )?(?:about )?(?P<value>\d{1,6}) % of (?:frame (\d{1,6})|the frame)",
    "cut": rf"cut by the border {_AT}",
    "side": rf"(?P<value>to the (?:left|right) of|above|below) (?P<other>{_NAME}) {_AT}(?P<also> and touching it)?",
    "touch": rf"touching (?P<other>{_NAME}) {_AT}",
    "best": rf"frame (\d{{1,6}}) shows (?:it|them|(?P<who>{_NAME})) best",
    "span": rf"visible (?:{_FROM}|in frame (\d{{1,6}}) alone)",
    "farthest": rf"farthest (?P<value>to the left|to the right|up|down) {_AT}",
    "order": r"(?P<value>(?:into|out of) view (?:before|after) all others)",
    "as_said": rf"as the query says in {_LIST}",
    "kind": r"of the same kind",
    "means": rf"the query means (?P<who>{_NAME})",
    "rules_out": rf"not (?P<value>{_NAME}(?:(?:, | or |, or ){_NAME})*)",
    "none": r"nothing here answers to the query",
    "unseen": r"in none of the frames shown so far",
    "untold": UNTOLD,
    "look": r"frames (\d{1,6}) to (\d{1,6}), with frame (\d{1,6}) large",
    "answer": r"frames (\d{1,6}) to (\d{1,6}), key frame (\d{1,6})",
    "count": r"(?P<value>\d{1,6}) candidates",
}
_EACH = {kind: re.compile(pattern, re.IGNORECASE) for kind, pattern in PATTERNS.items()}
_ANY = re.compile("|".join(re.sub(r"\?P<\w+>", "", pattern) for pattern in PATTERNS.values()), re.IGNORECASE)
_HEADING = re.compile(r"step [123] \((?:temporal|spatial|linguistic)\):", re.IGNORECASE)
_WATCHED = re.compile(
    r"\d+|%|\b(?:left|right|upper|lower|up|down|top|bottom|cent(?:er|re)|middle|corner|border|edge|above|below|under"
    r"|beside|behind|front|larger|smaller|bigger|largest|smallest|biggest|grow\w*|shrink\w*|static|stationary|still"
    r"|motionless|touch\w*|overlap\w*|(?:dis)?appear\w*|enter(?:s|ed|ing)?|leav(?:e|es|ing)|vanish\w*|emerg\w*"
    r"|into view|out of view|two|three|four|five|six|seven|eight|nine|ten|twice|percent|not|no|never|none|nothing"
    r"|neither|nor|without|cannot|always|every|throughout|before|after)\b|n[\u2019']t\b",
    re.IGNORECASE,
)


def frame_list(frames: Sequence[int]) -> str:
    """ "frame 4", "frames 4 and 8", "frames 4, 8 and 12"."""
    numbers = [str(t) for t in frames]
    return f"frame {numbers[0]}" if len(numbers) == 1 else f"frames {', '.join(numbers[:-1])} and {numbers[-1]}"


def read_claims(text: str, names: Sequence[str]) -> Reading:
    """Every claim in the thinking of a turn; `names` are those of the candidates, without article."""
    masked, spans = _mask(text, names)
    quotes = [text[a:b].strip('"') for a, b in spans if text[a] == '"']
    claims, blank = [Claim("quote", value=quote) for quote in quotes], list(masked)
    who, last, end = "", -1, 0
    for match in _ANY.finditer(masked):
        start = end
        named = [char for char in masked[start : match.start()] if _is_name(char)]
        who = _name(named[-1], names) if named else who
        found = _claims(match[0], who, last, names)
        if found[0].kind in ("means", "best"):
            who = found[0].who
        last = next((claim.frames[-1] for claim in reversed(found) if claim.frames), last)
        claims += found
        end = match.end()
        blank[match.start() : end] = " " * (end - match.start())
        spans.append(match.span())
    loose = tuple(match[0] for match in _WATCHED.finditer("".join(blank)))
    return Reading(tuple(claims), tuple(sorted(spans)), loose)


def _mask(text: str, names: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """The text with names and quotes replaced by private characters, as many as they have, and the spans of both."""
    spans: list[tuple[int, int]] = []

    def fill(char: str, match: re.Match[str]) -> str:
        spans.append(match.span())
        return char * len(match[0])

    masked = re.sub(r"[\ue000-\ue1ff]", "%", text)  # which is watched
    masked = re.sub(r'"[^"\n]*"', lambda match: fill(_QUOTE, match), masked)
    for i in sorted(range(len(names)), key=lambda i: -len(names[i]))[:_MOST_NAMES]:
        pattern = rf"\b(?:the )?{re.escape(names[i])}(?!\w)"
        masked = re.sub(pattern, lambda match, i=i: fill(chr(_FIRST_NAME + i), match), masked, flags=re.IGNORECASE)
    return _HEADING.sub(lambda match: " " * len(match[0]), masked), spans


def _claims(phrase: str, who: str, last: int, names: Sequence[str]) -> list[Claim]:
    """What one phrase says: one claim, or one per object that it rules out."""
    kind, match = next((kind, found) for kind, pattern in _EACH.items() if (found := pattern.fullmatch(phrase)))
    groups = match.groupdict()
    texts = [match[i] for i in range(1, len(match.groups()) + 1) if i not in match.re.groupindex.values()]
    frames = tuple(int(digits) for text in texts if text for digits in re.findall(r"\d+", text))
    if not frames and re.search(r"\b(?:there|of the frame)\b", phrase, re.IGNORECASE):
        frames = (last,)
    value, other = (groups.get("value") or "").lower(), groups.get("other") or ""
    if kind == "rules_out":
        found = dict.fromkeys(_name(char, names) for char in value if _is_name(char))
        return [Claim(kind, name) for name in found]
    who = _name(groups["who"][0], names) if groups.get("who") else who
    claim = Claim(kind, who, frames, _PLACES.get(value, value), _name(other[0], names) if other else "")
    return [claim, replace(claim, kind="touch", value="")] if groups.get("also") else [claim]


def _is_name(char: str) -> bool:
    return _FIRST_NAME <= ord(char) < _FIRST_NAME + _MOST_NAMES


def _name(char: str, names: Sequence[str]) -> str:
    return names[ord(char) - _FIRST_NAME]
