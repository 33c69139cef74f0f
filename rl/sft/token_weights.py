"""Weights of a trace's tokens: decisions weigh more, and tokens that the frames cannot justify get weight 0.

The author of a trace knows the target. Training on words that the policy cannot know yet would train it to guess.
"""

from __future__ import annotations

from dataclasses import dataclass
from string import ascii_lowercase

from env.types import Answer, Select, Task, Trajectory, Turn
from policy.vlm.batch import TokenSequence
from policy.vlm.chat_tokens import ChatTokens


@dataclass(frozen=True)
class _Regions:
    """Parts of a turn's text, as [start, end) in characters."""

    seen: tuple[int, int]  # step 1: a description of the frames
    closeup: tuple[int, int]  # the part of it that describes the zoomed frames
    steps: tuple[int, int]  # steps 2 and 3: the conclusions

    @classmethod
    def of(cls, text: str) -> _Regions:
        second = max(text.find(" Step 2"), 0)
        third = max(text.find("</think>"), second)
        closeup = text.find(";", 0, second) + 1 if " closeup" in text[:second] else 0
        return cls((0, second), (0, closeup), (second, third))


class TokenWeights:
    """Weights of a sequence's tokens: 0 outside actions, `decision_weight` for names and numbers, 1 for the rest."""

    def __init__(self, chat: ChatTokens, decision_weight: float):
        self.chat = chat
        self.decision_weight = decision_weight
        vocab = chat.tokenizer.get_vocab()
        self._numbers = {token_id for token, token_id in vocab.items() if token.lstrip("\u0120").isdigit()}
        words = [chat.encode(f" {word}") for word in (*ascii_lowercase, "none")]  # letters label frames
        self._words = {ids[0] for ids in words if len(ids) == 1}

    def __call__(self, trajectory: Trajectory, sequence: TokenSequence) -> list[float]:
        """Return one weight per token of `sequence`, which is `trajectory` as token ids."""
        weights = [0.0] * len(sequence)
        has_zoomed = False
        for number, turn in enumerate(trajectory.turns):
            of_turn = self._of_turn(trajectory.task, turn, has_zoomed, bool(sequence.frames))
            start = sequence.turn_idx.index(number)
            weights[start : start + len(of_turn)] = of_turn
            has_zoomed |= isinstance(turn.decision, Select)
        return weights

    def _of_turn(self, task: Task, turn: Turn, has_zoomed: bool, is_shown: bool) -> list[float]:
        """Return the weights of a turn's tokens; the arguments are those of `_unknown`."""
        text = turn.action.text
        encoded = self.chat.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        regions = _Regions.of(text)
        decisive = self._numbers | self._words | set(self.chat.encode(f" {task.caption}") if task.caption else [])
        whole, decisions = self._unknown(task, turn, regions, has_zoomed, is_shown)
        weights = []
        for token_id, (start, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
            decides = token_id in decisive and not _within(end, regions.seen) and not text.endswith("Step", 0, start)
            decides |= bool(task.explore) and _within(end, regions.closeup)  # which object has the mark
            is_guess = any(_within(end, region) for region in whole)
            is_guess |= token_id in decisive and any(_within(end, region) for region in decisions)
            weights.append(0.0 if is_guess else self.decision_weight if decides else 1.0)
        return [*weights, 1.0]  # the end token

    def _unknown(
        self, task: Task, turn: Turn, regions: _Regions, has_zoomed: bool, is_shown: bool
    ) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Return the regions that the frames cannot justify, and those whose names and numbers they cannot justify.

        Args:
            task: The task; `explore` says that the target shows only in zoomed frames.
            turn: A turn of its trace.
            regions: The parts of the turn's text.
            has_zoomed: Whether an earlier turn zoomed.
            is_shown: Whether the sequence has frames.
        """
        whole, decisions = [], []
        if task.explore and isinstance(turn.decision, Answer) and not has_zoomed:
            decisions.append(regions.steps)  # the target is open; the answer block below repeats these words
        if not is_shown:
            whole.append(regions.seen)
            if isinstance(turn.decision, Select) and not task.explore:
                decisions.append(regions.steps)
        return whole, decisions


def _within(at: int, region: tuple[int, int]) -> bool:
    """Return whether a token that ends at character `at` is in the region."""
    return region[0] < at <= region[1]
