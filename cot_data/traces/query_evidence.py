"""Linguistic evidence: which words of the query the masks bear out, in sentences of `cot_data.traces.claims`.

Looks (colour, clothes, kind) are for the eyes: a trace repeats them and draws the conclusion. Words of motion, place
and order are weighed against the frames shown, and passed over in silence where those don't settle them.
"""

from __future__ import annotations

from collections.abc import Sequence

from cot_data.traces.candidates import Scene, Thing, quotable, same_kind
from cot_data.traces.claims import frame_list
from cot_data.traces.mask_evidence import STILL_WORD, Motion, center, motion, side
from cot_data.traces.parse_expression import words_in

_WAYS = {
    "left": "to the left",
    "right": "to the right",
    "up": "up",
    "upward": "up",
    "upwards": "up",
    "down": "down",
    "downward": "down",
    "downwards": "down",
}
_SIDES = {
    "left of": "to the left of",
    "right of": "to the right of",
    "above": "above",
    "below": "below",
    "under": "below",
}
_ENDS = {
    "left": "to the left",
    "leftmost": "to the left",
    "right": "to the right",
    "rightmost": "to the right",
    "top": "up",
    "upper": "up",
    "bottom": "down",
    "lower": "down",
}
_RESTING = words_in("stands standing sits sitting lies lying stays staying rests resting parked")
_GOING = words_in(
    "walks walking runs running moves moving goes going comes coming crosses crossing flies flying swims swimming "
    "drives driving rides riding travels travelling drifts drifting rolls rolling slides sliding"
)
_TURNING = words_in("turns turning turned swings swinging")
_COMING = words_in("appears appear enters comes")
_LEAVING = words_in("leaves disappears disappear")


def query_words(scene: Scene) -> str:
    """What the query asks for, in its own words: 'The query says "white dog" and "with black patches".'"""
    parsed = scene.parsed
    parts = [parsed.quantity, parsed.noun, parsed.rest] if parsed.head else [quotable(scene.task.expression)]
    quotes = [f'"{part}"' for part in parts if part]
    return f"The query says {joined(quotes)}." if quotes else "The query is empty."


def reasons(scene: Scene, target: Thing, shown: Sequence[int]) -> list[str]:
    """Sentences on the words that fit `target`, then on who is of its kind, over the frames `shown`."""
    found = [
        *_motion_words(scene, target, shown),
        *_place_words(scene, target, shown),
        *_time_words(scene, target, shown),
    ]
    told = [t for t in scene.task.evidence if t in shown]
    if scene.task.explore and told:
        found.append(f"The {target.name} is as the query says in {frame_list(told)}.")
    alike = [other for other in scene.others if same_kind(other, target) and not scene.task.caption]
    return [*found, *(f"The {other.name} {be(other)} of the same kind." for other in alike)]


def joined(words: Sequence[str], last: str = "and") -> str:
    """ "a", "a and b", "a, b and c"; nothing of nothing."""
    return "" if not words else words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"


def be(thing: Thing) -> str:
    return "are" if thing.parsed.is_plural else "is"


def comes_first(target: Thing, others: Sequence[Thing], shown: Sequence[int], is_entry: bool, is_first: bool) -> bool:
    """Whether, in the frames shown, it is seen earlier than all others (`is_first`) or later, for the first time
    (`is_entry`) or for the last time."""
    at = 0 if is_entry else -1
    own, rest = target.seen_in(shown), [seen for other in others if (seen := other.seen_in(shown))]
    if not own or not rest:
        return False
    return all(own[at] < seen[at] if is_first else own[at] > seen[at] for seen in rest)


def is_farthest(target: Thing, things: Sequence[Thing], way: str, frame_idx: int) -> bool:
    """Whether of all that a frame shows, two at least, it is farthest "to the left", "to the right", "up" or "down"."""
    centers = {thing.name: center(thing.masks, frame_idx) for thing in things if thing.seen_in((frame_idx,))}
    if len(centers) < 2 or target.name not in centers:
        return False
    axis, sign = int(way in ("up", "down")), -1 if way in ("to the left", "up") else 1
    own = sign * centers.pop(target.name)[axis]
    return own > max(sign * other[axis] for other in centers.values())


def _motion_words(scene: Scene, target: Thing, shown: Sequence[int]) -> list[str]:
    found, ways = [], motion(target.masks, target.seen_in(shown))
    for words in scene.parsed.motions:
        fitting = [each for each in ways if _fits(words.lower().split(), each, len(ways))]
        told = joined([f"{each.way} from frame {each.first} to frame {each.last}" for each in fitting], "then")
        found += [f'"{words}" fits the {target.name}: {told}.'] if fitting else []
    return found


def _fits(words: list[str], seen: Motion, num_ways: int) -> bool:
    """Whether motion words ("moves left", "never moves", "walking") go with one of the `num_ways` seen."""
    is_still = seen.way == STILL_WORD
    if words[0] in ("not", "never"):
        return is_still and words[-1] in _GOING and num_ways == 1
    if words[-1] in _WAYS:
        return "from" not in words[:-2] and _WAYS[words[-1]] in seen.way
    if words[0] in _RESTING:
        return is_still and num_ways == 1
    if words[0] in _TURNING:
        return num_ways == 2 and not is_still
    return words[0] in _GOING and not is_still


def _place_words(scene: Scene, target: Thing, shown: Sequence[int]) -> list[str]:
    """A place beside another candidate that the query names, else a place farthest out."""
    query, found = scene.task.expression.lower(), []
    named = [other for other in scene.others if other.name.lower() in query]
    for word in scene.parsed.places:
        for other in named[:1]:
            both = [t for t in other.seen_in(shown) if target.seen_in((t,))]
            wanted = _SIDES.get(word.lower(), "")
            if both and side(target.masks, other.masks, both[0]) == wanted:
                found.append(
                    f'"{word}" fits: the {target.name} {be(target)} {wanted} the {other.name} in frame {both[0]}.'
                )
        way = _ENDS.get(word.lower())
        if way and not named:
            frames = [t for t in shown if is_farthest(target, scene.things, way, t)]
            if frames:
                found.append(f'"{word}" fits: the {target.name} {be(target)} farthest {way} in frame {frames[0]}.')
    return found


def _time_words(scene: Scene, target: Thing, shown: Sequence[int]) -> list[str]:
    words = {word.lower(): word for word in scene.parsed.times}
    verbs = [(verb, True) for verb in _COMING & set(words)] + [(verb, False) for verb in _LEAVING & set(words)]
    for verb, is_entry in sorted(verbs):
        for order, is_first in (("first", True), ("last", False)):
            if order in words and comes_first(target, scene.others, shown, is_entry, is_first):
                view, when = "into" if is_entry else "out of", "before" if is_first else "after"
                return [f'"{words[verb]}" and "{words[order]}" fit the {target.name}: {view} view {when} all others.']
    return []
