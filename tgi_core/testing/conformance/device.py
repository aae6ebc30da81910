"""The backend under test while it is loaded. Knows how to load it, not what to test."""

from __future__ import annotations

from typing import cast

from tgi_core.contract import BackendSpec, Capabilities, LoadRequest, StepBackend


class Device:
    """Owns one backend at a time, so that a test may close it and load it again."""

    backend: StepBackend
    capabilities: Capabilities

    def __init__(self, spec: BackendSpec, request: LoadRequest) -> None:
        self.spec = spec
        self.request = request
        self.open()

    def open(self) -> None:
        """Creates, loads and warms up a backend."""
        # the fixture `device` has refused specs of the other kind
        self.backend = cast("StepBackend", self.spec.create())
        self.capabilities = self.backend.load(self.request, ignore_progress)
        self.backend.warm_up(ignore_progress)

    def close(self) -> None:
        """Closes the backend."""
        self.backend.close()


def ignore_progress(phase: str, done: float, total: float, unit: str = "") -> None:
    """A `Progress` that shows nothing."""


def unit_of(capabilities: Capabilities) -> int:
    """Tokens in the block that the kit steps over: the cache grain, or 8 if that tells nothing.

    A grain of 1 has no borders, and one as large as a sequence is a slot.
    """
    grain = capabilities.cache_grain_tokens
    if grain > capabilities.max_sequence_tokens // 4:
        return 8
    return max(grain, -(-8 // grain) * grain)


def too_small(capabilities: Capabilities) -> list[str]:
    """What must be larger for the kit to prove anything; each a phrase with the number."""
    unit = unit_of(capabilities)
    wanted = {
        "max_sequences": 4,
        "max_rows": 1,
        "max_prefill_tokens": 2 * unit,
        "max_step_tokens": 4 * unit,
        "max_sequence_tokens": 4 * unit,
        "cache_tokens": 16 * unit,
    }
    return [
        f"{name} is {getattr(capabilities, name)} and should be at least {least}"
        for name, least in wanted.items()
        if getattr(capabilities, name) < least
    ]
