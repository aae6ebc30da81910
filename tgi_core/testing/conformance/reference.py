"""The promise that the model is the right one: logits against another implementation's."""

from __future__ import annotations

import numpy as np
import pytest

from tgi_core.testing.conformance.comparison import Comparison
from tgi_core.testing.conformance.promises import Promises
from tgi_core.testing.conformance.runner import Row, Runner


class ReferencePromises(Promises):
    """Needs `reference_logits`."""

    def test_logits_equal_the_reference(self, runner: Runner) -> None:
        """Prefilled and decoded tokens alike give what the reference gives."""
        tokens = runner.prompt(2 * runner.unit + 6, 1)
        want = self.reference_logits(tokens)
        if want is None:
            pytest.skip("no reference_logits are given")
        # another implementation never agrees to the bit, whatever this one claims
        compare = Comparison(atol=self.atol, rtol=self.rtol)
        prompt, tail = tokens[:-6], tokens[-6:]
        places = tuple(range(len(prompt))) if runner.sees_all else (-1,)
        row = Row(runner.new(), prompt, places)
        if len(prompt) <= runner.capabilities.max_prefill_tokens:
            compare.same(runner.step(row)[0], want[: len(prompt)][list(places)], "the prompt")
        else:
            compare.same(runner.feed(row.seq, prompt), want[len(prompt) - 1], "the prompt")
        compare.same(runner.decode(row.seq, tail), np.asarray(want)[len(prompt) :], "decoding")
