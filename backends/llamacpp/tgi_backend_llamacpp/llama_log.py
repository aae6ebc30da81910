"""Routes llama.cpp's log to Python's logging and remembers its last complaints.

Does not know what the lines mean.
"""

from __future__ import annotations

import ctypes
import logging
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import llama_cpp.llama_cpp as llama

_LOGGER = logging.getLogger("tgi_backend_llamacpp")

# ggml's levels: 1 debug, 2 info, 3 warning, 4 error, 5 continues the line before. llama.cpp tells
# hundreds of facts per load as "info", which here is Python's debug.
_LEVELS = {3: logging.WARNING, 4: logging.ERROR}
_CONTINUED = 5
_CHOSEN = (b"possible training context overflow", b"full-size SWA cache")
"""Warnings about what this backend does on purpose: its cache holds many sequences, whole."""


class LlamaLog:
    """The one receiver of llama.cpp's log in this process."""

    def __init__(self) -> None:
        self._complaints: deque[str] = deque(maxlen=8)
        self._level = logging.DEBUG
        self._lines: list[str] | None = None
        # ctypes needs the callback to stay alive for as long as the library may call it
        self._callback = llama.llama_log_callback(self._receive)
        llama.llama_log_set(self._callback, ctypes.c_void_p(0))

    def forget(self) -> None:
        """Drops the complaints so far; call it before what may fail."""
        self._complaints.clear()

    def complaints(self) -> str:
        """The errors since `forget` in llama.cpp's own words; says so if there were none."""
        return "; ".join(self._complaints) or "llama.cpp gave no reason"

    @contextmanager
    def overheard(self) -> Iterator[list[str]]:
        """All that llama.cpp says meanwhile, line by line."""
        self._lines = lines = []
        try:
            yield lines
        finally:
            self._lines = None

    def warn(self, message: str) -> None:
        """Logs a warning of this backend beside llama.cpp's."""
        _LOGGER.warning("%s", message)

    def _receive(self, level: int, text: bytes, user_data: object) -> None:
        if level != _CONTINUED:
            chosen = any(words in text for words in _CHOSEN)
            self._level = logging.DEBUG if chosen else _LEVELS.get(level, logging.DEBUG)
        line = text.decode("utf-8", "replace").strip()
        if line.strip("."):  # the rest is llama.cpp's progress bar
            _LOGGER.log(self._level, "%s", line)
            if self._lines is not None:
                self._lines.append(line)
            if self._level == logging.ERROR:
                self._complaints.append(line)


@cache
def llama_log() -> LlamaLog:
    """Installs the receiver once; llama.cpp has one log per process."""
    return LlamaLog()
