"""Promises about where a sequence ends."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tgi_core.contract import FinishReason
from tgi_core.testing.conformance.engine.driver import Driver
from tgi_core.testing.conformance.engine.promises import EnginePromises


class StopPromises(EnginePromises):
    """The last token is told with the reason, and none after it."""

    @pytest.mark.parametrize("length", [1, 2, 7])
    def test_length_is_exact(self, driver: Driver, length: int) -> None:
        """As many tokens as were asked for."""
        [outcome] = driver.run(driver.request(driver.prompt(6, 1), length))
        assert len(outcome.tokens) == length
        assert outcome.finish is FinishReason.LENGTH

    def test_a_token_that_ends_a_sequence_is_its_last(self, driver: Driver) -> None:
        """Any of several, at its first place, and it is told."""
        prompt = driver.prompt(6, 2)
        whole = driver.tokens(driver.request(prompt, 12))
        for eos in ((whole[5],), (_absent(driver, whole), whole[3]), (whole[7], whole[2])):
            [outcome] = driver.run(driver.request(prompt, 12, eos=eos))
            end = min(whole.index(token) for token in eos if token in whole)
            assert outcome.tokens == whole[: end + 1]
            assert outcome.finish is FinishReason.EOS

    def test_a_token_that_never_comes_ends_nothing(self, driver: Driver) -> None:
        """The length does."""
        prompt = driver.prompt(6, 2)
        whole = driver.tokens(driver.request(prompt, 12))
        [outcome] = driver.run(driver.request(prompt, 12, eos=[_absent(driver, whole)]))
        assert (outcome.tokens, outcome.finish) == (whole, FinishReason.LENGTH)

    def test_the_length_comes_before_the_end_of_sequence_token(self, driver: Driver) -> None:
        """TGI's order, where both are reached with one token."""
        prompt = driver.prompt(6, 3)
        whole = driver.tokens(driver.request(prompt, 5))
        last = whole.index(whole[4]) + 1
        [outcome] = driver.run(driver.request(prompt, last, eos=[whole[4]]))
        assert (outcome.tokens, outcome.finish) == (whole[:last], FinishReason.LENGTH)

    def test_ignored_ends_are_tokens_like_any_other(self, driver: Driver) -> None:
        """`ignore_eos` goes on to the length."""
        prompt = driver.prompt(6, 4)
        whole = driver.tokens(driver.request(prompt, 8))
        [outcome] = driver.run(driver.request(prompt, 8, eos=whole[:3], ignore_eos=True))
        assert (outcome.tokens, outcome.finish) == (whole, FinishReason.LENGTH)

    def test_a_sequence_ends_where_the_engine_holds_no_longer_one(self, driver: Driver) -> None:
        """At `info.max_sequence_tokens`, prompt included."""
        room = driver.info.max_sequence_tokens
        prompt = driver.prompt(min(room - 4, driver.info.max_prompt_tokens), 5)
        [outcome] = driver.run(driver.request(prompt, 2 * room))
        assert len(prompt) + len(outcome.tokens) == room
        assert outcome.finish is FinishReason.LENGTH

    def test_longest_prompt_is_served(self, driver: Driver) -> None:
        """Even if there is room for one token only."""
        prompt = driver.prompt(driver.info.max_prompt_tokens, 6)
        [outcome] = driver.run(driver.request(prompt, 1))
        assert len(outcome.tokens) == 1

    def test_a_resumed_request_goes_on(self, driver: Driver) -> None:
        """As if nothing had happened; what it has counts towards its length."""
        request = driver.request(driver.prompt(6, 7), 10)
        whole = driver.tokens(request)
        for done in (1, 4, 9):
            resumed = replace(request, request_id=f"again-{done}", resumed=tuple(whole[:done]))
            [outcome] = driver.run(resumed)
            assert outcome.finish is FinishReason.LENGTH
            assert len(outcome.tokens) == len(whole) - done
            if self.exact:
                assert outcome.tokens == whole[done:]


def _absent(driver: Driver, tokens: list[int]) -> int:
    """A token that is none of these."""
    return next(token for token in range(driver.info.vocab_size) if token not in tokens)
