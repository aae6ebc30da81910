"""Promises about neighbours: who is cancelled, fails or waits harms nobody else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tgi_core.contract import (
    AdapterRef,
    Feature,
    Grammar,
    GrammarKind,
    Image,
    Request,
    SamplingParams,
    StopRule,
)
from tgi_core.testing.conformance.engine.driver import Driver
from tgi_core.testing.conformance.engine.promises import EnginePromises, Started
from tgi_core.testing.conformance.promises import require

_UNCLAIMED: dict[Feature, dict[str, Any]] = {
    Feature.GRAMMAR: {
        "grammar": Grammar(kind=GrammarKind.REGEX, text="a+"),
        "stop": StopRule(max_new_tokens=4, eos_token_ids=(0,)),
    },
    Feature.PROMPT_LOGPROBS: {"prompt_logprobs": True},
    Feature.LOGPROBS: {"sampling": SamplingParams(logprobs=True)},
    Feature.TYPICAL_P: {"sampling": SamplingParams(typical_p=0.5)},
    Feature.MIN_P: {"sampling": SamplingParams(min_p=0.5)},
    Feature.PENALTIES: {"sampling": SamplingParams(repetition_penalty=2.0)},
    Feature.LOGIT_BIAS: {"sampling": SamplingParams(logit_bias=((1, 1.0),))},
    Feature.WATERMARK: {"sampling": SamplingParams(adjustments=("watermark",))},
    Feature.EMBEDDING: {"embedding": True},
    Feature.IMAGE: {"images": (Image(data=b"an image", digest="", spans=((0, 1),)),)},
}


class IsolationPromises(EnginePromises):
    """A request gets the answer that it gets alone."""

    def test_answers_do_not_depend_on_company(self, driver: Driver) -> None:
        """Greedy ones are those that each has alone."""
        require(self.exact, "the class says that this device is not exact")
        wanted = [driver.request(driver.prompt(3 + 5 * i, i), 4 + 3 * i) for i in range(6)]
        alone = [driver.tokens(request) for request in wanted]
        again = [replace(request, request_id=f"again-{i}") for i, request in enumerate(wanted)]
        assert [outcome.tokens for outcome in driver.run(*again)] == alone

    @pytest.mark.parametrize("polls", [0, 1, 5])
    def test_nothing_comes_of_a_cancelled_request(self, driver: Driver, polls: int) -> None:
        """At once, however far it is; its neighbours end, and its id may come back."""
        long = driver.info.max_sequence_tokens
        gone, stays = driver.submit(
            driver.request(driver.prompt(6, 1), long), driver.request(driver.prompt(7, 2), 12)
        )
        for _ in range(polls):
            before = len(gone.pieces)
            driver.until(lambda n=before: len(gone.pieces) > n)  # type: ignore[misc]
        driver.cancel(gone)
        driver.until(lambda: stays.ended)
        assert len(stays.tokens) == 12
        [again] = driver.run(replace(gone.request, stop=StopRule(max_new_tokens=3)))
        assert len(again.tokens) == 3

    def test_cancelling_what_is_not_there_is_no_error(self, driver: Driver) -> None:
        """Unknown, ended, and cancelled before."""
        [ended] = driver.run(driver.request(driver.prompt(4, 1), 2))
        [gone] = driver.submit(driver.request(driver.prompt(4, 2), 30))
        driver.cancel(gone)
        for request_id in ("unknown", ended.request.request_id, gone.request.request_id):
            driver.engine.cancel(request_id)
        driver.drain()

    def test_cancelled_requests_leave_their_room(self, driver: Driver) -> None:
        """Those that run and those that wait: nothing is held, and others take their places."""
        most = driver.info.max_requests
        require(most <= 64, "info.max_requests is more than a test can fill")
        long = driver.info.max_sequence_tokens
        outcomes = driver.submit(
            *(driver.request(driver.prompt(4, i), long) for i in range(2 * most))
        )
        driver.until(lambda: any(outcome.pieces for outcome in outcomes))
        driver.clear()
        stats = driver.engine.stats()
        assert stats.num_running == stats.num_waiting == 0
        after = driver.run(*(driver.request(driver.prompt(5, i), 3) for i in range(most)))
        assert all(len(outcome.tokens) == 3 for outcome in after)

    def test_impossible_requests_fail_alone_and_say_why(self, driver: Driver) -> None:
        """Told as invalid: trying again cannot help."""
        info = driver.info
        good = driver.request(driver.prompt(5, 1), 4)
        stop = good.stop
        wrong: list[dict[str, Any]] = [
            {"prompt": ()},
            {"prompt": driver.prompt(info.max_prompt_tokens + 1, 1)},
            {"prompt": (1, info.vocab_size)},
            {"prompt": (-1, 1)},
            {"resumed": driver.prompt(info.max_sequence_tokens, 1)},
            {"resumed": driver.prompt(stop.max_new_tokens, 1)},
            {"sampling": SamplingParams(logit_bias=((info.vocab_size, 1.0),))},
            {"sampling": SamplingParams(adjustments=("no such adjustment",))},
        ]
        alone = driver.tokens(good)
        bad = [replace(good, request_id=f"bad-{i}", **fields) for i, fields in enumerate(wrong)]
        outcomes = driver.run(*bad[:4], replace(good, request_id="good"), *bad[4:])
        _refused(bad, {outcome.request.request_id: outcome.failed for outcome in outcomes})
        assert outcomes[4].tokens == alone

    def test_what_is_not_claimed_is_refused(self, driver: Driver) -> None:
        """By name, and never ignored."""
        good = driver.request(driver.prompt(5, 3), 4)
        wanted = dict(_UNCLAIMED)
        adapter = AdapterRef(name="one", path=Path("nowhere"), version="0")
        wanted[Feature.ADAPTER] = {"adapter": adapter}
        bad = [
            replace(good, request_id=feature.name, **fields)
            for feature, fields in wanted.items()
            if feature not in driver.info.features
        ]
        require(bool(bad), "info.features holds all there are")
        outcomes = driver.run(*bad)
        _refused(bad, {outcome.request.request_id: outcome.failed for outcome in outcomes})

    def test_close_and_start_again(self, started: Started) -> None:
        """A new engine after the old one is closed: the same info, the same answers."""
        driver = Driver(started.engine, started.info)
        prompt = driver.prompt(9, 4)
        before, info = driver.tokens(driver.request(prompt, 8)), started.info
        # one is left open on purpose
        driver.submit(driver.request(prompt, 40))
        started.close()
        started.open()
        assert started.info == info
        driver = Driver(started.engine, started.info)
        assert driver.tokens(driver.request(prompt, 8)) == before


def _refused(bad: list[Request], failures: dict[str, Any]) -> None:
    for request in bad:
        failed = failures[request.request_id]
        assert failed is not None, f"{request} was served"
        assert failed.invalid and failed.message
