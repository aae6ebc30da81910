"""Promises about what an engine tells, and when."""

from __future__ import annotations

from tgi_core.contract import EngineInfo, Feature, FinishReason
from tgi_core.testing.conformance.engine.driver import Driver
from tgi_core.testing.conformance.engine.promises import EnginePromises, need
from tgi_core.testing.conformance.promises import require


class EventPromises(EnginePromises):
    """The order of events is checked with each of them, in every test of the kit."""

    def test_info_makes_sense(self, driver: Driver) -> None:
        """Right types, and numbers that fit each other."""
        info = driver.info
        assert isinstance(info, EngineInfo)
        assert info.device and isinstance(info.device, str)
        for name in ("vocab_size", "max_prompt_tokens", "max_sequence_tokens", "max_requests"):
            value = getattr(info, name)
            assert type(value) is int and value > 0, f"{name} is {value!r}"
        assert info.max_prompt_tokens < info.max_sequence_tokens <= info.cache_tokens
        assert all(isinstance(feature, Feature) for feature in info.features)
        assert (Feature.EMBEDDING in info.features) == (info.embedding is not None)

    def test_a_request_starts_and_gives_tokens_and_finishes(self, driver: Driver) -> None:
        """Once each, in this order, and nothing that was not asked for."""
        [outcome] = driver.run(driver.request(driver.prompt(9, 1), 6))
        assert outcome.started is not None
        assert outcome.finish is FinishReason.LENGTH
        assert all(0 <= token < driver.info.vocab_size for token in outcome.tokens)
        assert not outcome.logprobs and not outcome.top and outcome.scored is None

    def test_tokens_are_told_as_they_are_made(self, driver: Driver) -> None:
        """A client that streams need not wait for the end."""
        [outcome] = driver.run(driver.request(driver.prompt(5, 2), 32))
        assert len(outcome.pieces) > 1, "all tokens came with the last one"

    def test_an_idle_engine_says_so(self, driver: Driver) -> None:
        """Not busy, nothing to tell, nothing held by requests; busy again with the next one."""
        driver.run(driver.request(driver.prompt(5, 3), 4))
        driver.drain()
        assert not driver.engine.poll(0.0)
        stats = driver.engine.stats()
        assert stats.num_running == stats.num_waiting == stats.running_max_tokens == 0
        [outcome] = driver.submit(driver.request(driver.prompt(5, 3), 4))
        assert driver.engine.busy
        driver.until(lambda: outcome.ended)

    def test_more_requests_than_fit_wait_for_their_turn(self, driver: Driver) -> None:
        """All are served, and the gauges tell no more running ones than there may be."""
        most = driver.info.max_requests
        require(most <= 64, "info.max_requests is more than a test can fill")
        outcomes = driver.submit(
            *(driver.request(driver.prompt(3 + i % 4, i), 5) for i in range(2 * most + 1))
        )
        while not all(outcome.ended for outcome in outcomes):
            stats = driver.engine.stats()
            assert stats.num_running <= most
            assert stats.num_running + stats.num_waiting <= len(outcomes)
            before = sum(len(outcome.pieces) for outcome in outcomes)
            driver.until(lambda n=before: sum(len(o.pieces) for o in outcomes) > n)  # type: ignore[misc]
        assert all(len(outcome.tokens) == 5 for outcome in outcomes)

    def test_counters_count_what_was_told(self, driver: Driver) -> None:
        """They never go down, and generated tokens are those that clients got."""
        driver.drain()
        before = driver.engine.stats()
        outcomes = driver.run(*(driver.request(driver.prompt(7, i), 3 + i) for i in range(3)))
        driver.drain()
        after = driver.engine.stats()
        told = sum(len(outcome.tokens) for outcome in outcomes)
        assert after.generated_tokens - before.generated_tokens == told
        computed = after.prefill_tokens + after.cached_tokens
        assert computed - before.prefill_tokens - before.cached_tokens >= 3 * 7
        assert after.steps >= before.steps

    def test_prompt_logprobs_come_once_and_first(self, driver: Driver) -> None:
        """One for each token of the prompt but the first."""
        need(driver, Feature.PROMPT_LOGPROBS)
        prompt = driver.prompt(8, 4)
        [outcome] = driver.run(driver.request(prompt, 3, prompt_logprobs=True, num_top=2))
        assert outcome.scored is not None
        assert len(outcome.scored.logprobs) == len(outcome.scored.top) == len(prompt) - 1
        assert all(logprob <= 0 for logprob in outcome.scored.logprobs)
