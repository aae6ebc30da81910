"""Counts the events of a streamed completion, looking into as few of them as possible.

Knows nothing of sockets or clocks. Most events are counted by their beginning alone; only those
that may carry usage, an error or the end are parsed.
"""

from __future__ import annotations

import json

_RARE = (b"[DONE]", b'"completion_tokens"', b'"error"')
"""Inside a JSON string the quotes would be escaped, so generated text cannot look like the last
two; if it holds the first, its events are merely counted more slowly."""


class EventStream:
    """The events of one answer, fed in pieces of any size."""

    def __init__(self) -> None:
        self._rest = b""
        self.done = False
        """`[DONE]` has come."""
        self.finished = False
        """A finish reason has come in an event that was parsed; some servers end with that."""
        self.error = ""
        """What the server says went wrong."""
        self.prompt_tokens: int | None = None
        """From the server's usage, if it sends any."""
        self.completion_tokens: int | None = None
        """Likewise."""

    def feed(self, data: bytes) -> int:
        """Takes the next piece and returns how many events with text it completes."""
        if self._rest:
            data = self._rest + data
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        end = data.rfind(b"\n\n")
        if end < 0:
            self._rest = data
            return 0
        whole, self._rest = data[:end], data[end + 2 :]
        for mark in _RARE:
            if mark in whole:
                return sum(self._look(event) for event in whole.split(b"\n\n"))
        return whole.count(b"\ndata:") + whole.startswith(b"data:")

    def _look(self, event: bytes) -> bool:
        """Parses one event; whether it has text."""
        lines = [line[5:] for line in event.split(b"\n") if line.startswith(b"data:")]
        payload = b"".join(lines).strip()
        if payload == b"[DONE]":
            self.done = True
        if not payload or self.done:
            return False
        try:
            message = json.loads(payload)
        except ValueError:
            self.error = f"an event is not JSON: {payload[:100]!r}"
            return False
        if not isinstance(message, dict):
            return False
        if message.get("error"):
            self.error = _text(message["error"])
            return False
        usage = message.get("usage")
        if isinstance(usage, dict):
            self.prompt_tokens = usage.get("prompt_tokens")
            self.completion_tokens = usage.get("completion_tokens")
        choices = message.get("choices")
        if isinstance(choices, list):
            self.finished |= any(isinstance(c, dict) and c.get("finish_reason") for c in choices)
        return bool(choices)


def _text(error: object) -> str:
    """TGI sends a string, OpenAI an object with a message."""
    if isinstance(error, dict):
        return str(error.get("message", error))
    return str(error)
