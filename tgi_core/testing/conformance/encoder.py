"""Promises of backends whose prompts go to an encoder: whole, and to their own sequence only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from tgi_core.contract import Capabilities, Fork, Step, StepBackend
from tgi_core.testing.conformance.comparison import Comparison
from tgi_core.testing.conformance.device import Device, unit_of
from tgi_core.testing.conformance.promises import Promises, require

Logits = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Part:
    """What a row appends to a sequence."""

    seq: int
    decoded: Sequence[int]
    prompt: Sequence[int] = ()
    """Empty if the encoder has read it before."""


class _Encoding:
    """Drives a backend, and keeps count of what each sequence holds."""

    def __init__(self, backend: StepBackend, capabilities: Capabilities) -> None:
        assert capabilities.encoder is not None
        self.backend = backend
        self.capabilities = capabilities
        self.start = list(capabilities.encoder.start)
        self.unit = unit_of(capabilities)
        self.encoded: dict[int, int] = {}
        self.held: dict[int, int] = {}

    def tokens(self, length: int, seed: int) -> list[int]:
        """Random, the same in every run."""
        drawn = np.random.default_rng((length, seed)).integers(
            0, self.capabilities.vocab_size, length
        )
        return [int(token) for token in drawn]

    def step(self, *parts: _Part) -> list[Logits]:
        """float32 (vocab,): logits of the last token of each row."""
        flat: list[int] = []
        past, lengths, out = [], [], []
        for part in parts:
            if part.prompt:
                self.encoded[part.seq], self.held[part.seq] = len(part.prompt), 0
            new = [*part.prompt, *part.decoded]
            past.append(self.held[part.seq])
            assert self.backend.reserve(part.seq, past[-1] + len(new)), "refused though empty"
            flat += new
            lengths.append(len(new))
            out.append(len(flat) - 1)
            self.held[part.seq] += len(new)
        step = Step(
            seq=np.array([part.seq for part in parts], np.int32),
            past=np.array(past, np.int32),
            n=np.array(lengths, np.int32),
            tokens=np.array(flat, np.int32),
            out=np.array(out, np.int32),
            encoded=np.array([self.encoded[part.seq] for part in parts], np.int32),
        )
        return list(self.backend.step(step).numpy().copy())

    def release(self, *seqs: int) -> None:
        for seq in seqs:
            self.backend.release(seq)
            self.held.pop(seq, None)
            self.encoded.pop(seq, None)

    def alone(self, prompt: Sequence[int], decoded: Sequence[int]) -> Logits:
        """The last logits, from a sequence of their own."""
        seq = self.capabilities.max_sequences - 1
        [logits] = self.step(_Part(seq, decoded, prompt))
        self.release(seq)
        return logits


class EncoderPromises(Promises):
    """A sequence is what its encoder made of its prompt, and what its decoder was given since."""

    @pytest.fixture
    def encoding(self, device: Device) -> Iterator[_Encoding]:
        """Drives the backend; starts and ends with an empty cache."""
        require(device.capabilities.encoder is not None, "capabilities.encoder is None")
        encoding = _Encoding(device.backend, device.capabilities)
        yield encoding
        encoding.release(*tuple(encoding.held))

    def test_decoded_one_by_one_equals_decoded_at_once(
        self, encoding: _Encoding, compare: Comparison
    ) -> None:
        """Also what a preempted sequence is recomputed from: prompt and output in one row."""
        prompt = encoding.tokens(encoding.unit + 3, 1)
        decoded = [*encoding.start, *encoding.tokens(encoding.unit + 2, 2)]
        first = len(encoding.start)
        got = encoding.step(_Part(0, decoded[:first], prompt))
        for token in decoded[first:]:
            got += encoding.step(_Part(0, [token]))
        for i, logits in enumerate(got):
            want = encoding.alone(prompt, decoded[: first + i])
            compare.same(logits, want, f"{i} tokens after the start")

    def test_the_encoder_sees_every_token_of_its_prompt(
        self, encoding: _Encoding, compare: Comparison
    ) -> None:
        """The last ones, which no decoder has read before, and the first ones alike."""
        prompt = encoding.tokens(encoding.unit + 3, 1)
        want = encoding.alone(prompt, encoding.start)
        for place in range(len(prompt)):
            changed = list(prompt)
            changed[place] = (changed[place] + 1) % encoding.capabilities.vocab_size
            got = encoding.alone(changed, encoding.start)
            compare.different(got, want, f"token {place} changed")

    def test_rows_see_their_own_prompt_only(self, encoding: _Encoding, compare: Comparison) -> None:
        """Prompts of different lengths, beside rows that decode, in ids that are used again."""
        require(encoding.capabilities.max_rows >= 3, "capabilities.max_rows is below 3")
        prompts = [encoding.tokens(n, n) for n in (3, 2 * encoding.unit, encoding.unit + 1)]
        for turn in range(2):
            decoded = [list(encoding.start) for _ in prompts]
            got = encoding.step(
                *[_Part(seq, decoded[seq], prompts[seq - turn]) for seq in range(3)]
            )
            for step in range(encoding.unit):
                for seq in range(3):
                    want = encoding.alone(prompts[seq - turn], decoded[seq])
                    compare.same(got[seq], want, f"turn {turn}, step {step}, row {seq}")
                for seq in range(3):
                    decoded[seq].append(encoding.tokens(1, 10 * step + seq)[0])
                got = encoding.step(*[_Part(seq, decoded[seq][-1:]) for seq in range(3)])
            encoding.release(0, 1, 2)

    def test_a_fork_shares_what_the_encoder_made(
        self, encoding: _Encoding, compare: Comparison
    ) -> None:
        """As when one request wants several answers."""
        require(encoding.capabilities.fork is Fork.ANY, "capabilities.fork is not ANY")
        prompt, tail = encoding.tokens(encoding.unit + 3, 1), encoding.tokens(4, 2)
        encoding.step(_Part(0, [*encoding.start, *tail], prompt))
        for dst, more in ((1, []), (2, [*encoding.start, *tail[:2]])):
            assert encoding.backend.fork(0, dst, len(prompt) + len(more))
            encoding.held[dst], encoding.encoded[dst] = len(prompt) + len(more), len(prompt)
            decoded = [*more, *(encoding.start if not more else tail[2:3])]
            [logits] = encoding.step(_Part(dst, decoded[len(more) :]))
            compare.same(logits, encoding.alone(prompt, decoded), f"fork after {len(more)}")
        [logits] = encoding.step(_Part(0, tail[:1]))
        compare.same(logits, encoding.alone(prompt, [*encoding.start, *tail, tail[0]]), "source")
