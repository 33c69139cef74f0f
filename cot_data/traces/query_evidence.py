"""Collect the linguistic evidence: sentences on the words of the query that the masks confirm.

Words of appearance (colour, clothes, kind) cannot be checked with masks: a trace repeats them and concludes. Words of
motion, place and order are compared with the frames shown, and left out where the masks do not confirm them. All
sentences are phrases of `cot_data.traces.claims`.
"""

from __future__ import annotations

from collections.abc import Sequence

from cot_data.traces.candidates import Candidate, Scene, quotable, same_kind
from cot_data.traces.claims import frame_list
from cot_data.traces.mask_evidence import STILL_WORD, Motion, center, motions, side
from cot_data.traces.parse_expression import words_in

_DIRECTIONS = {
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
    """Return a sentence that quotes the query: 'The query says "white dog" and "with black patches".'"""
    parsed = scene.parsed
    parts = [parsed.quantity, parsed.noun, parsed.rest] if parsed.head else [quotable(scene.task.expression)]
    quotes = [f'"{part}"' for part in parts if part]
    return f"The query says {join_words(quotes)}." if quotes else "The query is empty."


def reasons(scene: Scene, target: Candidate, shown: Sequence[int]) -> list[str]:
    """Return sentences on the words of the query that fit the target, then on candidates of the same kind.

    Args:
        scene: the task and its candidates.
        target: the scene's target, visible in at least one of the frames.
        shown: indices of all frames shown so far, in order.

    Returns:
        Whole sentences, possibly none.
    """
    found = [
        *_motion_words(scene, target, shown),
        *_place_words(scene, target, shown),
        *_time_words(scene, target, shown),
    ]
    evidence = [t for t in scene.task.evidence if t in shown]
    if scene.task.explore and evidence:
        found.append(f"The {target.name} is as the query says in {frame_list(evidence)}.")
    similar = [other for other in scene.others if same_kind(other, target) and not scene.task.caption]
    return [*found, *(f"The {other.name} {be_verb(other)} of the same kind." for other in similar)]


def join_words(words: Sequence[str], last: str = "and") -> str:
    """Return "a", "a and b" or "a, b and c"; "" without words."""
    return "" if not words else words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"


def be_verb(candidate: Candidate) -> str:
    """Return "are" for a plural candidate, else "is"."""
    return "are" if candidate.parsed.is_plural else "is"


def comes_first(
    target: Candidate, others: Sequence[Candidate], shown: Sequence[int], is_entry: bool, is_first: bool
) -> bool:
    """Return whether the target comes into view, or goes out of it, before (or after) all other candidates.

    Args:
        target: the candidate in question.
        others: the candidates to compare with; those that no frame shows do not count.
        shown: indices of the frames shown so far.
        is_entry: compare when they come into view; else when they go out of it.
        is_first: before all others; else after all others.

    Returns:
        False also where the target or all others are not visible.
    """
    at = 0 if is_entry else -1
    own, rest = target.visible_in(shown), [seen for other in others if (seen := other.visible_in(shown))]
    if not own or not rest:
        return False
    return all(own[at] < seen[at] if is_first else own[at] > seen[at] for seen in rest)


def is_farthest(target: Candidate, candidates: Sequence[Candidate], direction: str, frame_idx: int) -> bool:
    """Return whether the target is farthest in a direction, among at least two candidates that a frame shows.

    Args:
        target: the candidate in question.
        candidates: all candidates, the target among them.
        direction: "to the left", "to the right", "up" or "down".
        frame_idx: the frame.

    Returns:
        False also where the frame does not show the target, or shows it alone.
    """
    visible = [candidate for candidate in candidates if candidate.visible_in((frame_idx,))]
    centers = {candidate.name: center(candidate.masks, frame_idx) for candidate in visible}
    if len(centers) < 2 or target.name not in centers:
        return False
    axis, sign = int(direction in ("up", "down")), -1 if direction in ("to the left", "up") else 1
    own = sign * centers.pop(target.name)[axis]
    return own > max(sign * other[axis] for other in centers.values())


def _motion_words(scene: Scene, target: Candidate, shown: Sequence[int]) -> list[str]:
    found, seen = [], motions(target.masks, target.visible_in(shown))
    for words in scene.parsed.motions:
        fitting = [each for each in seen if _fits(words.lower().split(), each, len(seen))]
        path = join_words(
            [f"{each.direction} from frame {each.first} to frame {each.last}" for each in fitting], "then"
        )
        found += [f'"{words}" fits the {target.name}: {path}.'] if fitting else []
    return found


def _fits(words: list[str], seen: Motion, num_motions: int) -> bool:
    """Whether motion words ("moves left", "never moves", "walking") fit one of the `num_motions` motions seen."""
    is_still = seen.direction == STILL_WORD
    if words[0] in ("not", "never"):
        return is_still and words[-1] in _GOING and num_motions == 1
    if words[-1] in _DIRECTIONS:
        return "from" not in words[:-2] and _DIRECTIONS[words[-1]] in seen.direction
    if words[0] in _RESTING:
        return is_still and num_motions == 1
    if words[0] in _TURNING:
        return num_motions == 2 and not is_still
    return words[0] in _GOING and not is_still


def _place_words(scene: Scene, target: Candidate, shown: Sequence[int]) -> list[str]:
    """Sentences on the side of another candidate that the query names, or else on a place farthest out."""
    query, found = scene.task.expression.lower(), []
    named = [other for other in scene.others if other.name.lower() in query]
    for word in scene.parsed.places:
        for other in named[:1]:
            both = [t for t in other.visible_in(shown) if target.visible_in((t,))]
            wanted = _SIDES.get(word.lower(), "")
            if both and side(target.masks, other.masks, both[0]) == wanted:
                found.append(
                    f'"{word}" fits: the {target.name} {be_verb(target)} {wanted} the {other.name} in frame {both[0]}.'
                )
        direction = _ENDS.get(word.lower())
        if direction and not named:
            frames = [t for t in shown if is_farthest(target, scene.candidates, direction, t)]
            if frames:
                found.append(
                    f'"{word}" fits: the {target.name} {be_verb(target)} farthest {direction} in frame {frames[0]}.'
                )
    return found


def _time_words(scene: Scene, target: Candidate, shown: Sequence[int]) -> list[str]:
    words = {word.lower(): word for word in scene.parsed.times}
    verbs = [(verb, True) for verb in _COMING & set(words)] + [(verb, False) for verb in _LEAVING & set(words)]
    for verb, is_entry in sorted(verbs):
        for order, is_first in (("first", True), ("last", False)):
            if order in words and comes_first(target, scene.others, shown, is_entry, is_first):
                view, when = "into" if is_entry else "out of", "before" if is_first else "after"
                return [f'"{words[verb]}" and "{words[order]}" fit the {target.name}: {view} view {when} all others.']
    return []
