"""The promise whose evidence comes from outside of the engine."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tgi_core.testing.conformance.engine.driver import Driver
from tgi_core.testing.conformance.engine.promises import EnginePromises


class EngineReferencePromises(EnginePromises):
    """Everything else compares the engine with itself."""

    def reference_tokens(self, prompt: Sequence[int], num: int) -> list[int] | None:
        """What another implementation of the same model says to a prompt; None for none.

        Override it: greedy, `num` tokens. The prompts are the same in every run.
        """
        return None

    def test_greedy_tokens_equal_the_reference(self, driver: Driver) -> None:
        """Of a few prompts of different lengths."""
        for length in (1, 7, 30):
            prompt = driver.prompt(length, 1)
            wanted = self.reference_tokens(prompt, 16)
            if wanted is None:
                pytest.skip("no reference_tokens are given")
            assert driver.tokens(driver.request(prompt, 16)) == wanted, f"{length} tokens"
