"""Read the claims of a trace from its text: statements that masks can confirm or refute.

A claim is a short phrase with frame indices in it ("on the left in frames 4 and 8"). The words around it are free, so a
trace may be reworded as long as its phrases stay intact. The subject of a claim is the candidate named last before it.
A phrase that ends in "there" refers to the frame mentioned last. Words outside of all claims that could state something
the masks would have to confirm (numbers, places, directions, changes, negations) are collected in `unread_words`.
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
UNDECIDED = "cannot be told yet"
_PLACES = {phrase: place for place, phrase in PLACE_PHRASES.items()}
_LIST = r"frames? (\d{1,6}(?:(?:, | and |, and )\d{1,6})*)"
_DIRECTION = r"to the (?:left|right)(?: and (?:up|down))?|up|down"
_AT = r"(?:in frame (\d{1,6})|there)"
_FROM = r"from frame (\d{1,6}) to frame (\d{1,6})"
_FIRST_NAME, _MAX_NAMES, _QUOTE = 0xE000, 0x100, "\ue100"  # private-use characters that stand for names and quotes
_NAME = r"[\ue000-\ue0ff]+"


@dataclass(frozen=True)
class Claim:
    """One statement: `kind` is a key of `PATTERNS` or "quote", `subject` a candidate's name ("" without a subject)."""

    kind: str
    subject: str = ""
    frames: tuple[int, ...] = ()
    value: str = ""  # a place, a direction, a number, or the quoted words
    other: str = ""  # name of a second candidate


@dataclass(frozen=True)
class ReadClaims:
    """The result of reading a text."""

    claims: tuple[Claim, ...]  # in order
    spans: tuple[tuple[int, int], ...]  # [start, end) in characters, of the text that must not be reworded
    unread_words: tuple[str, ...]


# The phrase of each kind of claim, as a regular expression. Unnamed groups capture frame indices. The order counts: the
# first kind that matches wins.
PATTERNS: dict[str, str] = {
    "place": rf"(?P<value>{'|'.join(sorted(_PLACES, key=len, reverse=True))}) (?:in {_LIST}|there)",
    "absent": rf"not in {_LIST}",
    "entry": r"into view between frames (\d{1,6}) and (\d{1,6})",
    "exit": r"out of view between frames (\d{1,6}) and (\d{1,6})",
    "motion": rf"(?P<value>{_DIRECTION}|almost still) {_FROM}",
    "growth": r"(?P<value>larger|smaller) in frame (\d{1,6}) than in frame (\d{1,6})",
    "size": r"(?:takes? up )?(?:about )?(?P<value>\d{1,6}) % of (?:frame (\d{1,6})|the frame)",
    "cut": rf"cut by the border {_AT}",
    "side": rf"(?P<value>to the (?:left|right) of|above|below) (?P<other>{_NAME}) {_AT}(?P<also> and touching it)?",
    "touch": rf"touching (?P<other>{_NAME}) {_AT}",
    "best": rf"frame (\d{{1,6}}) shows (?:it|them|(?P<subject>{_NAME})) best",
    "span": rf"visible (?:{_FROM}|in frame (\d{{1,6}}) alone)",
    "farthest": rf"farthest (?P<value>to the left|to the right|up|down) {_AT}",
    "order": r"(?P<value>(?:into|out of) view (?:before|after) all others)",
    "evidence": rf"as the query says in {_LIST}",
    "same_kind": r"of the same kind",
    "means": rf"the query means (?P<subject>{_NAME})",
    "rules_out": rf"not (?P<value>{_NAME}(?:(?:, | or |, or ){_NAME})*)",
    "no_target": r"nothing here answers to the query",
    "unseen": r"in none of the frames shown so far",
    "undecided": UNDECIDED,
    "select": r"frames (\d{1,6}) to (\d{1,6}), with frame (\d{1,6}) large",
    "answer": r"frames (\d{1,6}) to (\d{1,6}), key frame (\d{1,6})",
    "count": r"(?P<value>\d{1,6}) candidates",
}
_EACH = {kind: re.compile(pattern, re.IGNORECASE) for kind, pattern in PATTERNS.items()}
_ANY = re.compile("|".join(re.sub(r"\?P<\w+>", "", pattern) for pattern in PATTERNS.values()), re.IGNORECASE)
_HEADING = re.compile(r"step [123] \((?:temporal|spatial|linguistic)\):", re.IGNORECASE)
_UNREAD_WORD = re.compile(
    r"\d+|%|\b(?:left|right|upper|lower|up|down|top|bottom|cent(?:er|re)|middle|corner|border|edge|above|below|under"
    r"|beside|behind|front|larger|smaller|bigger|largest|smallest|biggest|grow\w*|shrink\w*|static|stationary|still"
    r"|motionless|touch\w*|overlap\w*|(?:dis)?appear\w*|enter(?:s|ed|ing)?|leav(?:e|es|ing)|vanish\w*|emerg\w*"
    r"|into view|out of view|two|three|four|five|six|seven|eight|nine|ten|twice|percent|not|no|never|none|nothing"
    r"|neither|nor|without|cannot|always|every|throughout|before|after)\b|n[\u2019']t\b",
    re.IGNORECASE,
)


def frame_list(frames: Sequence[int]) -> str:
    """Return "frame 4", "frames 4 and 8" or "frames 4, 8 and 12"."""
    numbers = [str(t) for t in frames]
    return f"frame {numbers[0]}" if len(numbers) == 1 else f"frames {', '.join(numbers[:-1])} and {numbers[-1]}"


def read_claims(text: str, names: Sequence[str]) -> ReadClaims:
    """Return every claim in the thinking of a turn; `names` are the candidates' names, without article."""
    masked, spans = _mask(text, names)
    quotes = [text[a:b].strip('"') for a, b in spans if text[a] == '"']
    claims, blank = [Claim("quote", value=quote) for quote in quotes], list(masked)
    subject, last_frame, end = "", -1, 0
    for match in _ANY.finditer(masked):
        start = end
        named = [char for char in masked[start : match.start()] if _is_name(char)]
        subject = _name(named[-1], names) if named else subject
        found = _claims(match[0], subject, last_frame, names)
        if found[0].kind in ("means", "best"):
            subject = found[0].subject
        last_frame = next((claim.frames[-1] for claim in reversed(found) if claim.frames), last_frame)
        claims += found
        end = match.end()
        blank[match.start() : end] = " " * (end - match.start())
        spans.append(match.span())
    unread = tuple(match[0] for match in _UNREAD_WORD.finditer("".join(blank)))
    return ReadClaims(tuple(claims), tuple(sorted(spans)), unread)


def _mask(text: str, names: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """The text with names and quotes replaced by as many private-use characters, and the spans of both."""
    spans: list[tuple[int, int]] = []

    def fill(char: str, match: re.Match[str]) -> str:
        spans.append(match.span())
        return char * len(match[0])

    masked = re.sub(r"[\ue000-\ue1ff]", "%", text)  # private-use characters of the text itself: reported as unread
    masked = re.sub(r'"[^"\n]*"', lambda match: fill(_QUOTE, match), masked)
    for i in sorted(range(len(names)), key=lambda i: -len(names[i]))[:_MAX_NAMES]:
        pattern = rf"\b(?:the )?{re.escape(names[i])}(?!\w)"
        masked = re.sub(pattern, lambda match, i=i: fill(chr(_FIRST_NAME + i), match), masked, flags=re.IGNORECASE)
    return _HEADING.sub(lambda match: " " * len(match[0]), masked), spans


def _claims(phrase: str, subject: str, last_frame: int, names: Sequence[str]) -> list[Claim]:
    """The claims of one phrase: usually one; one per candidate where it rules out several."""
    kind, match = next((kind, found) for kind, pattern in _EACH.items() if (found := pattern.fullmatch(phrase)))
    groups = match.groupdict()
    texts = [match[i] for i in range(1, len(match.groups()) + 1) if i not in match.re.groupindex.values()]
    frames = tuple(int(digits) for text in texts if text for digits in re.findall(r"\d+", text))
    if not frames and re.search(r"\b(?:there|of the frame)\b", phrase, re.IGNORECASE):
        frames = (last_frame,)
    value, other = (groups.get("value") or "").lower(), groups.get("other") or ""
    if kind == "rules_out":
        found = dict.fromkeys(_name(char, names) for char in value if _is_name(char))
        return [Claim(kind, name) for name in found]
    subject = _name(groups["subject"][0], names) if groups.get("subject") else subject
    claim = Claim(kind, subject, frames, _PLACES.get(value, value), _name(other[0], names) if other else "")
    return [claim, replace(claim, kind="touch", value="")] if groups.get("also") else [claim]


def _is_name(char: str) -> bool:
    return _FIRST_NAME <= ord(char) < _FIRST_NAME + _MAX_NAMES


def _name(char: str, names: Sequence[str]) -> str:
    return names[ord(char) - _FIRST_NAME]
