"""Promises of a backend's claims: well-formed and true to its word."""

from __future__ import annotations

from tgi_core.contract import (
    ANY_LENGTH,
    AdapterRows,
    Capabilities,
    Fork,
    LogitsRows,
    Modality,
    SamplesOnDevice,
)
from tgi_core.testing.conformance.device import Device
from tgi_core.testing.conformance.promises import Promises

_NUMBERS = (
    *("vocab_size", "max_sequences", "max_rows", "max_step_tokens", "max_sequence_tokens"),
    *("max_prefill_tokens", "cache_tokens", "cache_grain_tokens", "steps_in_flight"),
)


class HonestyPromises(Promises):
    """What the backend says of itself holds. That capabilities are true, the other groups show."""

    def test_capabilities_make_sense(self, device: Device) -> None:
        """Right types, and numbers that fit each other."""
        claims = device.capabilities
        assert isinstance(claims, Capabilities)
        for name in _NUMBERS:
            value = getattr(claims, name)
            assert type(value) is int and value > 0, f"{name} is {value!r}"
        assert claims.device and isinstance(claims.device, str)
        assert isinstance(claims.fork, Fork)
        assert isinstance(claims.logits, LogitsRows)
        assert isinstance(claims.adapters, AdapterRows)
        assert all(isinstance(one, Modality) for one in claims.modalities)
        most = claims.max_adjacent_images
        assert most is None or (type(most) is int and most > 0), f"{most} adjacent images"
        for name in ("truncates", "mixed", "chunked", "generates", "batch_invariant"):
            assert type(getattr(claims, name)) is bool, name
        assert claims.cache_tokens % claims.cache_grain_tokens == 0
        assert claims.max_rows <= claims.max_sequences, "each row is another sequence"
        assert claims.max_rows <= claims.max_step_tokens, "each row has a token"
        assert claims.max_prefill_tokens <= claims.max_step_tokens
        assert claims.max_sequence_tokens <= claims.cache_tokens
        drafts = claims.draft_lengths
        assert drafts == (ANY_LENGTH,) or all(
            type(n) is int and 1 < n <= claims.max_step_tokens for n in drafts
        ), f"draft_lengths are {drafts}"
        assert list(claims.row_buckets) == sorted(set(claims.row_buckets))
        assert all(0 < bucket <= claims.max_rows for bucket in claims.row_buckets)

    def test_steps_in_flight_come_with_a_sampler(self, device: Device) -> None:
        """Two steps in flight need a device that samples by itself."""
        assert device.capabilities.steps_in_flight in (1, 2)
        if device.capabilities.steps_in_flight == 2:
            assert isinstance(device.backend, SamplesOnDevice)
