"""Ask a teacher model at an OpenAI-compatible endpoint, such as `vllm serve`: text in, text out.

Transport failures (no connection, a timeout, status 429 or 5xx, a broken reply) are retried with exponential backoff.
The cap on tokens is strict: a request is sent only if the prompt and the longest possible reply fit. If the endpoint
needs a key, it is read from VIDEOSEG_TEACHER_KEY.
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
from env.json_text import parse_json

KEY_ENV = "VIDEOSEG_TEACHER_KEY"
TRIES = 4
FIRST_WAIT = 1.0  # seconds before the second try; doubled before each further one
TIMEOUT = 120.0  # seconds for one reply
REPLY_TOKENS = 2048  # most tokens of one reply
FRAMING_TOKENS = 64  # most tokens that the chat template adds to a message
_RETRIED = frozenset({408, 409, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class Reply:
    """A reply, with the tokens of request and reply together."""

    text: str
    tokens: int


class Teacher:
    """One model at one endpoint. `spent` counts the tokens used so far. Threads may share it."""

    def __init__(
        self,
        url: str,
        model: str,
        max_tokens: int,
        timeout: float = TIMEOUT,
        wait: Callable[[float], None] = time.sleep,
    ):
        """Open a client; the first request is sent by `ask`.

        Args:
            url: of the endpoint, with its version, as in http://localhost:8000/v1.
            model: name of the model there.
            max_tokens: cap on `spent`, the tokens of all requests and replies; 0 is no cap.
            timeout: seconds for one reply.
            wait: sleeps for the given seconds between tries.
        """
        key = os.environ.get(KEY_ENV, "")
        self.url, self.model, self.max_tokens, self.spent = url.rstrip("/"), model, max_tokens, 0
        self._wait, self._lock = wait, Lock()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx2.Client(timeout=timeout, headers=headers)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def ask(self, messages: list[dict[str, str]]) -> Reply | None:
        """Return the reply to a chat, or None if it could exceed the cap. DataError if the endpoint gives no reply."""
        # A token is at least one byte of text, so this is more than the request can cost.
        most = sum(len(message["content"].encode()) + FRAMING_TOKENS for message in messages) + REPLY_TOKENS
        body = {"model": self.model, "messages": messages, "temperature": 0, "max_tokens": REPLY_TOKENS}
        problem = ""
        for number in range(TRIES):
            if number:
                self._wait(FIRST_WAIT * 2 ** (number - 1))
            if not self._reserve(most):
                return None
            cost = most  # the cost of a lost request is unknown
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
                self._release(most - cost)
        hint = "check that it runs and start again; finished tasks are kept"
        raise DataError(self.url, f"expected a reply of {self.model!r}, found {problem} in {TRIES} tries; {hint}")

    def _reserve(self, tokens: int) -> bool:
        """Reserve tokens for a request if the cap allows it; threads call this concurrently."""
        with self._lock:
            if self.max_tokens and self.spent + tokens > self.max_tokens:
                return False
            self.spent += tokens
            return True

    def _release(self, tokens: int) -> None:
        with self._lock:
            self.spent -= tokens


def _reply(response: httpx2.Response) -> Reply | None:
    """The first choice, with -1 tokens if the body has no count; None if the body is no chat completion."""
    try:
        body: Any = parse_json(response.content)
        text = body["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError):
        return None
    if not isinstance(text, str):
        return None
    usage = body.get("usage")
    tokens = usage.get("total_tokens") if isinstance(usage, dict) else None
    return Reply(text, tokens if type(tokens) is int and tokens >= 0 else -1)
