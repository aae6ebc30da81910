"""Promises of backends that sample on their device: what the numpy reference chooses.

Also of those that keep two steps in flight, where a step names tokens that nobody has read yet.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest

from tgi_core.contract import SamplesOnDevice
from tgi_core.testing.conformance.comparison import Comparison
from tgi_core.testing.conformance.promises import Promises, require
from tgi_core.testing.conformance.runner import Row, Runner
from tgi_core.testing.conformance.samplers import choose, compare
from tgi_core.testing.conformance.wishes import WISHES, greedy_batch, random_batch


class SamplingPromises(Promises):
    """The choice is a function of logits and SamplingBatch, the same on every device."""

    @pytest.mark.parametrize("wish", WISHES)
    def test_device_chooses_what_the_reference_chooses(self, runner: Runner, wish: str) -> None:
        """Ids, log-probabilities and top tokens, over random logits and random settings."""
        sampler = _sampler(runner)
        rng = np.random.default_rng(sorted(WISHES).index(wish))
        seqs = _feed_some(runner)
        compared = total = 0
        for _ in range(4):
            tokens = rng.integers(0, runner.capabilities.vocab_size, len(seqs)).tolist()
            rows = [Row(seq, [token]) for seq, token in zip(seqs, tokens, strict=True)]
            pending = runner.launch(*rows)
            logits = np.concatenate(runner.read(pending, *rows))
            batch = random_batch(rng, len(seqs), runner.capabilities.vocab_size, wish)
            want, firm = choose(logits, batch)
            compare(sampler.sample(pending, batch).wait(), want, firm, batch)
            compared += int(firm.sum())
            total += len(firm)
        assert compared * 2 > total, "too few rows are clear of rounding; is the model degenerate?"

    def test_step_may_name_tokens_that_nobody_has_read(
        self, runner: Runner, compare: Comparison
    ) -> None:
        """Two steps in flight: -1 - i is the token of output i, in any order, beside given ones."""
        require(runner.capabilities.steps_in_flight == 2, "capabilities.steps_in_flight is 1")
        sampler = _sampler(runner)
        vocab = runner.capabilities.vocab_size
        prompts = [runner.prompt(n, n) for n in (runner.unit + 1, 3, runner.unit - 2)]
        prompts = prompts[: runner.capabilities.max_rows]
        first = [int(runner.alone(prompt).argmax()) for prompt in prompts]
        given = runner.prompt(1, 7)[0]
        # the last output first; the row in the middle does not use its own output
        order = list(reversed(range(len(prompts))))
        token = {i: first[i] if i != 1 else given for i in order}
        wants = {i: runner.alone([*prompts[i], token[i]]) for i in order}
        lasts = {i: runner.alone([*prompts[i], token[i], int(wants[i].argmax())]) for i in order}

        seqs = [runner.new() for _ in prompts]
        greedy = greedy_batch(len(prompts), vocab)
        one = sampler.sample(runner.launch(*map(Row, seqs, prompts)), greedy)
        rows = [Row(seqs[i], [-1 - i if i != 1 else given]) for i in order]
        pending = runner.launch(*rows)
        two = sampler.sample(pending, greedy)
        assert one.wait().ids.tolist() == first, "read while the second step is in flight"
        assert two.wait().ids.tolist() == [int(wants[i].argmax()) for i in order]
        # the third step names the outputs of the second one, by their places there
        rows = [Row(seqs[i], [-1 - place]) for place, i in enumerate(order)]
        for i, logits in zip(order, runner.step(*rows), strict=True):
            compare.same(logits[0], lasts[i], f"row {i}")
        assert one.wait().ids.tolist() == first, "read again, two steps later"


def _sampler(runner: Runner) -> SamplesOnDevice:
    on_device = isinstance(runner.backend, SamplesOnDevice)
    require(on_device, "the backend has no method sample; core samples for it")
    return cast("SamplesOnDevice", runner.backend)


def _feed_some(runner: Runner) -> list[int]:
    """A few sequences of different lengths."""
    capabilities = runner.capabilities
    seqs = [runner.new()]
    runner.feed(seqs[0], runner.prompt(3, 0))
    while len(seqs) < min(6, capabilities.max_rows, capabilities.max_sequences):
        seqs.append(runner.new())
        runner.feed(seqs[-1], runner.prompt(3 + len(seqs), len(seqs)))
    return seqs
