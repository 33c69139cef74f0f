"""How much each token of a trace counts: what decides counts more, what cannot be known from what is shown nothing.

A trace is written by somebody who knows the target. To teach a policy what it cannot know yet is to teach it to guess.
"""

from __future__ import annotations

from dataclasses import dataclass
from string import ascii_lowercase

from env.types import Answer, Select, Task, Trajectory, Turn
from policy.vlm.batch import TokenSequence
from policy.vlm.chat_tokens import ChatTokens


@dataclass(frozen=True)
class _Regions:
    """Where in a turn's text, as [start, end) in characters: what is seen, as far as the close-up, steps 2 and 3."""

    seen: tuple[int, int]
    closeup: tuple[int, int]
    steps: tuple[int, int]

    @classmethod
    def of(cls, text: str) -> _Regions:
        second = max(text.find(" Step 2"), 0)
        third = max(text.find("</think>"), second)
        closeup = text.find(";", 0, second) + 1 if " closeup" in text[:second] else 0
        return cls((0, second), (0, closeup), (second, third))


class TokenWeights:
    """Weights of a sequence's tokens: 0 outside of actions, else 1, or `decision_weight` on names and numbers."""

    def __init__(self, chat: ChatTokens, decision_weight: float):
        self.chat = chat
        self.decision_weight = decision_weight
        vocab = chat.tokenizer.get_vocab()
        self._numbers = {token_id for token, token_id in vocab.items() if token.lstrip("\u0120").isdigit()}
        words = [chat.encode(f" {word}") for word in (*ascii_lowercase, "none")]  # letters label frames
        self._words = {ids[0] for ids in words if len(ids) == 1}

    def __call__(self, trajectory: Trajectory, sequence: TokenSequence) -> list[float]:
        """One weight per token of `sequence`, which is `trajectory` in ids."""
        weights = [0.0] * len(sequence)
        has_looked = False
        for number, turn in enumerate(trajectory.turns):
            of_turn = self._of_turn(trajectory.task, turn, has_looked, bool(sequence.frames))
            start = sequence.turn_idx.index(number)
            weights[start : start + len(of_turn)] = of_turn
            has_looked |= isinstance(turn.decision, Select)
        return weights

    def _of_turn(self, task: Task, turn: Turn, has_looked: bool, is_shown: bool) -> list[float]:
        text = turn.action.text
        encoded = self.chat.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        regions = _Regions.of(text)
        decisive = self._numbers | self._words | set(self.chat.encode(f" {task.caption}") if task.caption else [])
        unknown = self._unknown(task, turn, regions, has_looked, is_shown)
        weights = []
        for token_id, (start, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
            decides = token_id in decisive and not _within(end, regions.seen) and not text.endswith("Step", 0, start)
            decides |= bool(task.explore) and _within(end, regions.closeup)  # who wears what was looked for
            is_guess = any(_within(end, region) for region in unknown[0])
            is_guess |= token_id in decisive and any(_within(end, region) for region in unknown[1])
            weights.append(0.0 if is_guess else self.decision_weight if decides else 1.0)
        return [*weights, 1.0]  # the end token

    def _unknown(
        self, task: Task, turn: Turn, regions: _Regions, has_looked: bool, is_shown: bool
    ) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Regions that cannot be known, and regions whose names and numbers cannot."""
        nothing, no_choice = [], []
        if task.explore and isinstance(turn.decision, Answer) and not has_looked:
            no_choice.append(regions.steps)  # which one is meant; the block below repeats what was said
        if not is_shown:
            nothing.append(regions.seen)
            if isinstance(turn.decision, Select) and not task.explore:
                no_choice.append(regions.steps)
        return nothing, no_choice


def _within(at: int, region: tuple[int, int]) -> bool:
    """Whether a token that ends at `at` lies in the region."""
    return region[0] < at <= region[1]
