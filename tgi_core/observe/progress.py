"""Shows progress: one bar that redraws itself on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import sys
from time import monotonic
from typing import TextIO

_LINE_INTERVAL_S = 2.0
_BAR_WIDTH = 30


class ProgressDisplay:
    """Takes any number of phases, one after the other."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._phase = ""
        self._began_s = self._shown_s = 0.0

    def show(self, phase: str, done: float, total: float, unit: str = "") -> None:
        """`done` of `total`; a phase ends when they are equal."""
        now = monotonic()
        new = phase != self._phase
        if new:
            self._phase, self._began_s = phase, now
        complete = done >= total
        if not (new or complete or self._terminal or now - self._shown_s >= _LINE_INTERVAL_S):
            return
        self._shown_s = now
        text = f"{phase}: {_amount(done, total, unit)}"
        if complete:
            text += f" in {now - self._began_s:.1f} s"
        if self._terminal:
            filled = round(_BAR_WIDTH * min(1.0, done / total if total else 1.0))
            text = f"\r\033[K[{'=' * filled:<{_BAR_WIDTH}}] {text}"
        self._stream.write(text + ("\n" if complete or not self._terminal else ""))
        self._stream.flush()
        if complete:
            self._phase = ""


def _amount(done: float, total: float, unit: str) -> str:
    if unit == "bytes":
        return f"{done / 2**20:,.0f} of {total / 2**20:,.0f} MiB"
    return f"{done:,.0f} of {total:,.0f} {unit}".rstrip()
