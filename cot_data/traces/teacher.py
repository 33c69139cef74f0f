"""A teacher model behind an OpenAI-compatible endpoint (vLLM's `vllm serve` is one): text in, text out.

Failures of the way there (no connection, a timeout, status 429 or 5xx, a broken reply) are tried again, a few times and
ever later. A cap on tokens is kept to: a request is only sent if all of it and of its longest reply would still fit.
The key, where the endpoint wants one, is read from VIDEOSEG_TEACHER_KEY.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Any

import httpx2

from env.errors import DataError

KEY_ENV = "VIDEOSEG_TEACHER_KEY"
TRIES = 4
FIRST_WAIT = 1.0  # seconds; doubled before each further try
TIMEOUT = 120.0  # seconds for one reply
REPLY_TOKENS = 2048  # most of one reply
FRAMING_TOKENS = 64  # at most, that the chat template puts around the messages
_RETRIED = frozenset({408, 409, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class Reply:
    """What came back, and the tokens of request and reply together."""

    text: str
    tokens: int


class Teacher:
    """One model of one endpoint, with the tokens it has cost so far in `spent`. Threads may share it."""

    def __init__(
        self,
        url: str,
        model: str,
        max_tokens: int,
        spent: int = 0,
        timeout: float = TIMEOUT,
        wait: Callable[[float], None] = time.sleep,
    ):
        """`url` ends in the version, as in http://localhost:8000/v1; `max_tokens` 0 is no cap; `spent` counts to it."""
        key = os.environ.get(KEY_ENV, "")
        self.url, self.model, self.max_tokens, self.spent = url.rstrip("/"), model, max_tokens, spent
        self._wait, self._lock = wait, Lock()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx2.Client(timeout=timeout, headers=headers)

    def close(self) -> None:
        self._client.close()

    def ask(self, messages: list[dict[str, str]]) -> Reply | None:
        """The reply to a chat; None where the cap leaves no room for it. DataError where the endpoint gives none."""
        # A token is at least one byte of text, so this is more than the request can cost.
        most = sum(len(message["content"].encode()) + FRAMING_TOKENS for message in messages) + REPLY_TOKENS
        body = {"model": self.model, "messages": messages, "temperature": 0, "max_tokens": REPLY_TOKENS}
        problem = ""
        for number in range(TRIES):
            if number:
                self._wait(FIRST_WAIT * 2 ** (number - 1))
            if not self._reserve(most):
                return None
            cost = most  # what a request costs that got lost, nobody says
            try:
                response = self._client.post(f"{self.url}/chat/completions", json=body)
                found = _reply(response) if response.status_code == 200 else None
                if response.status_code != 200:
                    cost = 0
                if found:
                    cost = most if found.tokens < 0 else found.tokens
                    return Reply(found.text, cost)
                problem = f"status {response.status_code}, {response.text[:100]!r}"
                if response.status_code != 200 and response.status_code not in _RETRIED:
                    raise DataError(self.url, f"refused the request: {problem}; see --teacher and --teacher-model")
            except httpx2.TransportError as error:
                problem = f"{type(error).__name__} {error}"
            finally:
                self._settle(most, cost)
        hint = "see that it runs and start again; what is done is kept"
        raise DataError(self.url, f"expected a reply of {self.model!r}, found {problem} in {TRIES} tries; {hint}")

    def _reserve(self, tokens: int) -> bool:
        """Set tokens aside for a request, if there are so many left; several threads ask."""
        with self._lock:
            if self.max_tokens and self.spent + tokens > self.max_tokens:
                return False
            self.spent += tokens
            return True

    def _settle(self, reserved: int, cost: int) -> None:
        with self._lock:
            self.spent += cost - reserved


def _reply(response: httpx2.Response) -> Reply | None:
    """The first choice, with -1 tokens where it does not count them; None where the body is no chat completion."""
    try:
        body: Any = response.json()
        text = body["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError):
        return None
    if not isinstance(text, str):
        return None
    usage = body.get("usage")
    tokens = usage.get("total_tokens") if isinstance(usage, dict) else None
    return Reply(text, tokens if type(tokens) is int and tokens >= 0 else -1)
