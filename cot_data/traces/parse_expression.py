"""Parse an expression with word lists: noun, attributes, quantity, and words of motion, place and time.

Every part is a substring of the expression, so that a trace can quote it. English only. An expression that fits no
pattern gives a parse with an empty head.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


def words_in(text: str) -> frozenset[str]:
    """Return the words of a text as a set."""
    return frozenset(text.split())


DETERMINERS = words_in("a an the this that these those its his her their")
NUMBERS = words_in("two three four five six seven eight nine ten")
QUANTITIES = words_in("both all several some many multiple group pair")
PREPOSITIONS = words_in(
    "in on at with without wearing holding from to of by near behind between beside under over above below next "
    "closest along across into onto through towards toward against around inside outside for as like while and or "
    "but then before after during when where who which whose that is are was were has have had being not far "
    "further"
)
DIRECTIONS = words_in("left right up down upward upwards downward downwards forward forwards backward backwards away")
PLACES = words_in(
    "left right top bottom middle center centre front back behind between leftmost rightmost above below under "
    "over near nearest closest farthest beside corner side background foreground upper lower"
)
TIMES = words_in(
    "first last then before after while when initially finally eventually end beginning start again twice once "
    "early later earlier second appears appear disappears disappear leaves enters comes"
)
VERBS = words_in(
    "walks runs jumps moves turns stops stays sits stands lies eats plays swims flies climbs crosses follows "
    "rotates spins falls rises rests swings slides rolls crawls flashes moved turned walked ran jumped move turn "
    "walk run jump stop stay appears disappears leaves enters comes goes appear leave enter come go"
)
NO_PARTICIPLES = words_in("thing something nothing anything everything king ring wing string spring ceiling building")
IRREGULAR_PLURALS = words_in("people men women children sheep cattle geese mice feet fish puppies kids")
_LEADS = words_in("to the towards toward slowly quickly from")  # between a verb and its direction
_LINKS = words_in("that which who is are")
_WORD = re.compile(r"[\w'-]+", re.ASCII)


@dataclass(frozen=True)
class Parsed:
    """The parts of an expression; "" or () where it has none.

    "a white dog with black patches that moves left": head "dog", noun "white dog", attributes ("white",
    "with black patches"), motions ("moves left",).
    """

    head: str
    noun: str  # the head with the words right before it
    rest: str  # the text after the noun, without a leading "that is"
    attributes: tuple[str, ...]
    motions: tuple[str, ...]
    places: tuple[str, ...]
    times: tuple[str, ...]
    quantity: str  # of objects: "two", "both", "a group of"
    is_plural: bool


@dataclass(frozen=True)
class _Words:
    """The words of a text and their positions in it."""

    text: str
    spans: tuple[tuple[int, int], ...]

    def word(self, at: int) -> str:
        """Return a word in lower case; "" after the last one."""
        if at >= len(self.spans):
            return ""
        start, end = self.spans[at]
        return self.text[start:end].lower()

    def piece(self, start: int, end: int) -> str:
        """Return the text of the words [start, end), as written."""
        return self.text[self.spans[start][0] : self.spans[end - 1][1]] if start < end else ""

    def __len__(self) -> int:
        return len(self.spans)


def parse_expression(text: str) -> Parsed:
    """Return the parts of an expression; never fails."""
    words = _Words(text, tuple(match.span() for match in _WORD.finditer(text)))
    start, end = _noun_phrase(words)
    head = words.word(end - 1) if start < end else ""
    own = [words.word(at) for at in range(len(words))]
    counting = [at for at in range(start) if own[at] in NUMBERS | QUANTITIES]
    motions, moving = _motions(words, start, end)
    before = tuple(words.piece(at, at + 1) for at in range(start, end - 1))
    elsewhere = [at for at in range(len(words)) if at not in moving and not start <= at < end]
    return Parsed(
        head=words.piece(end - 1, end) if head else "",
        noun=words.piece(start, end),
        rest=_rest(words, end) if head else "",
        attributes=(*before, *_tails(words, end, moving)),
        motions=motions,
        places=tuple(dict.fromkeys(words.piece(at, _with_of(words, at)) for at in elsewhere if own[at] in PLACES)),
        times=tuple(dict.fromkeys(words.piece(at, at + 1) for at in elsewhere if own[at] in TIMES)),
        quantity=words.piece(counting[0], start) if counting else "",
        is_plural=bool(counting) or _ends_plural(head),
    )


def _noun_phrase(words: _Words) -> tuple[int, int]:
    """[first word, end) of the first noun phrase: at the start, else after the first determiner that has one."""
    starts = [0, *(at for at in range(len(words)) if words.word(at) in DETERMINERS)]
    for at in starts:
        while words.word(at) in DETERMINERS | NUMBERS | QUANTITIES | {"of"}:
            at += 1
        end = at
        while end < len(words) and _is_nominal(words, end, is_first=end == at):
            end += 1
        while at < end - 1 and words.word(at) in PLACES:  # "the left dog" is a dog
            at += 1
        if end > at and (at > 0 or not _is_participle(words.word(end - 1))):
            return at, end
    return 0, 0


def _is_nominal(words: _Words, at: int, is_first: bool) -> bool:
    word, following = words.word(at), words.word(at + 1)
    if word in PREPOSITIONS | VERBS | DETERMINERS or word.isdecimal():
        return False
    if word in DIRECTIONS | PLACES and not is_first:
        return False  # "the shape left of", but "the left dog"
    if _is_participle(word):  # "the flying bird", but "a dog walking" and "a boy performing a dance"
        return is_first and bool(following) and following not in PREPOSITIONS | DETERMINERS | DIRECTIONS
    return True


def _is_participle(word: str) -> bool:
    return len(word) > 4 and word.endswith("ing") and word not in NO_PARTICIPLES


def _motions(words: _Words, start: int, end: int) -> tuple[tuple[str, ...], set[int]]:
    """Verbs outside of the noun phrase with the direction that follows, and the indices of these words."""
    found, taken = [], set()
    for at in range(len(words)):
        word = words.word(at)
        is_verb = word in VERBS - TIMES or (_is_participle(word) and word not in ("wearing", "holding"))
        if not is_verb or start <= at < end or at in taken:
            continue
        first = at - 1 if at and words.word(at - 1) in ("not", "never") else at
        last = _direction_end(words, at + 1)
        found.append(words.piece(first, last))
        taken |= set(range(first, last))
    return tuple(found), taken


def _direction_end(words: _Words, at: int) -> int:
    """End of the direction that starts at word `at` ("to the left", "slowly from left to right"); `at` without one."""
    end = at
    while words.word(at) in DIRECTIONS | _LEADS:
        at += 1
        if words.word(at - 1) in DIRECTIONS:
            end = at
    return end


def _tails(words: _Words, end: int, moving: set[int]) -> list[str]:
    """ "with black patches", "in a red tshirt", "wearing a hat": attributes after the noun."""
    tails = []
    at = end
    while at < len(words):
        if words.word(at) in ("with", "in", "wearing") and at not in moving:
            last = at + 1
            while last < len(words) and last not in moving and words.word(last) not in PREPOSITIONS - {"and"}:
                last += 1
            while last > at + 1 and words.word(last - 1) in {"and"} | DETERMINERS:
                last -= 1
            if last > at + 1 and not any(words.word(k) in PLACES | TIMES for k in range(at, last)):
                tails.append(words.piece(at, last))
            at = max(last, at + 1)
        else:
            at += 1
    return tails


def _with_of(words: _Words, at: int) -> int:
    """ "left of" relates to another object, "left" to the frame."""
    return at + 2 if words.word(at + 1) == "of" else at + 1


def _rest(words: _Words, at: int) -> str:
    while words.word(at) in _LINKS:
        at += 1
    return words.piece(at, len(words))


def _ends_plural(word: str) -> bool:
    return word in IRREGULAR_PLURALS - {"fish", "sheep"} or bool(re.search(r"[^siu]s$", word))
