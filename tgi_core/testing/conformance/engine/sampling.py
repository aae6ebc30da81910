"""Promises about how tokens are chosen: each claimed feature does what SamplingParams says."""

from __future__ import annotations

from math import exp
from typing import Any

import pytest

from tgi_core.contract import Feature, FinishReason
from tgi_core.testing.conformance.engine.driver import Driver, Outcome
from tgi_core.testing.conformance.engine.promises import EnginePromises, need

_CLOSE = 1e-3


class EngineSamplingPromises(EnginePromises):
    """Temperature, top-k and top-p are always there; the rest if it is claimed."""

    def test_greedy_is_the_same_each_time(self, driver: Driver) -> None:
        """Whatever was served in between."""
        request = [driver.request(driver.prompt(8, 1), 10) for _ in range(2)]
        first = driver.tokens(request[0])
        driver.run(*(driver.request(driver.prompt(5, i), 4) for i in range(3)))
        assert driver.tokens(request[1]) == first

    def test_different_prompts_have_different_answers(self, driver: Driver) -> None:
        """Otherwise the kit proves nothing: draw the weights of the model wider."""
        answers = [driver.tokens(driver.request(driver.prompt(8, i), 8)) for i in range(4)]
        assert len({tuple(answer) for answer in answers}) == 4

    @pytest.mark.parametrize("narrow", [{"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-4}])
    def test_a_draw_from_one_token_is_greedy(
        self, driver: Driver, narrow: dict[str, float]
    ) -> None:
        """Top-k of 1, a tiny top-p, a temperature near 0."""
        prompt = driver.prompt(8, 2)
        greedy = driver.tokens(driver.request(prompt, 8))
        drawn: dict[str, Any] = {"temperature": 1.0, "seed": 7, **narrow}
        assert driver.tokens(driver.request(prompt, 8, **drawn)) == greedy

    def test_a_high_temperature_draws_all_sorts(self, driver: Driver) -> None:
        """Several draws, several answers."""
        prompt = driver.prompt(8, 3)
        drawn = [
            driver.tokens(driver.request(prompt, 8, temperature=50.0, seed=seed))
            for seed in range(4)
        ]
        assert len({tuple(answer) for answer in drawn}) > 1

    def test_the_seed_fixes_the_draw(self, driver: Driver) -> None:
        """Again, alone and beside others; another seed draws something else."""
        need(driver, Feature.SEED)
        prompt = driver.prompt(8, 4)
        wanted = [
            driver.request(prompt, 12, temperature=2.0, seed=seed) for seed in (1, 1, 2, 2**64 - 1)
        ]
        one, again, other, last = (driver.tokens(request) for request in wanted)
        assert one == again
        assert one != other != last
        if self.exact:
            beside = driver.run(
                *(driver.request(prompt, 12, temperature=2.0, seed=seed) for seed in (2, 1))
            )
            assert [outcome.tokens for outcome in beside] == [other, one]

    def test_min_p_of_one_is_greedy(self, driver: Driver) -> None:
        """Only what is as probable as the most probable token is left."""
        need(driver, Feature.MIN_P)
        prompt = driver.prompt(8, 5)
        greedy = driver.tokens(driver.request(prompt, 8))
        assert driver.tokens(driver.request(prompt, 8, temperature=1.0, min_p=1.0)) == greedy

    def test_bias_makes_and_forbids_tokens(self, driver: Driver) -> None:
        """Added to the logits of all places."""
        need(driver, Feature.LOGIT_BIAS)
        prompt = driver.prompt(8, 6)
        greedy = driver.tokens(driver.request(prompt, 6))
        wanted = next(t for t in range(driver.info.vocab_size) if t not in greedy)
        made = driver.tokens(driver.request(prompt, 6, logit_bias=((wanted, 1e4),)))
        assert made == [wanted] * 6
        forbidden = tuple((token, -1e4) for token in set(greedy))
        left = driver.tokens(driver.request(prompt, 6, logit_bias=forbidden))
        assert not set(left) & set(greedy)

    @pytest.mark.parametrize("kind", ["presence_penalty", "frequency_penalty"])
    def test_penalties_of_the_output_leave_the_prompt_alone(
        self, driver: Driver, kind: str
    ) -> None:
        """What the output holds does not come again; that the prompt holds it does not count."""
        need(driver, Feature.PENALTIES)
        need(driver, Feature.LOGIT_BIAS)
        prompt = driver.prompt(8, 7)
        wishes: dict[str, Any] = {"logit_bias": ((prompt[3], 1e4),), kind: 2e4}
        penalized = driver.tokens(driver.request(prompt, 16, **wishes))
        assert penalized[0] == prompt[3], "the prompt was counted"
        assert len(set(penalized)) == len(penalized)

    def test_repetition_penalty_counts_the_prompt_too(self, driver: Driver) -> None:
        """What prompt or output holds does not come again, if the penalty is large."""
        need(driver, Feature.PENALTIES)
        prompt = driver.prompt(8, 8)
        answer = driver.tokens(driver.request(prompt, 4))
        prompt = (*prompt, *answer)
        penalized = driver.tokens(driver.request(prompt, 8, repetition_penalty=1e4))
        assert not set(penalized) & set(prompt)
        assert len(set(penalized)) == len(penalized)

    def test_each_token_has_its_logprob(self, driver: Driver) -> None:
        """One a token, of a greedy one the largest; nothing else if only these are wanted."""
        need(driver, Feature.LOGPROBS)
        [outcome] = driver.run(driver.request(driver.prompt(8, 9), 6, logprobs=True))
        assert len(outcome.logprobs) == 6 and not outcome.top
        assert all(logprob <= 0 for logprob in outcome.logprobs)

    @pytest.mark.parametrize("num_top", [1, 3])
    @pytest.mark.parametrize("temperature", [0.0, 5.0])
    def test_top_tokens_are_the_best_in_order(
        self, driver: Driver, num_top: int, temperature: float
    ) -> None:
        """So many for each token; the drawn one has the same logprob there, if it is among them."""
        need(driver, Feature.LOGPROBS)
        wants: dict[str, Any] = {"num_top": num_top, "temperature": temperature, "seed": 3}
        [outcome] = driver.run(driver.request(driver.prompt(8, 10), 8, **wants))
        _check_top(outcome, num_top)
        if temperature == 0:
            assert [top[0].token for top in outcome.top] == outcome.tokens

    def test_logprobs_go_with_their_tokens_to_the_end(self, driver: Driver) -> None:
        """The token that ends a sequence has one as well."""
        need(driver, Feature.LOGPROBS)
        prompt = driver.prompt(8, 11)
        whole = driver.tokens(driver.request(prompt, 8))
        [outcome] = driver.run(driver.request(prompt, 8, eos=[whole[4]], num_top=2))
        assert outcome.finish is FinishReason.EOS
        _check_top(outcome, 2)


def _check_top(outcome: Outcome, num_top: int) -> None:
    assert outcome.failed is None, outcome.failed
    assert len(outcome.top) == len(outcome.logprobs) == len(outcome.tokens)
    for token, logprob, top in zip(outcome.tokens, outcome.logprobs, outcome.top, strict=True):
        assert len(top) == num_top
        told = [one.logprob for one in top]
        assert told == sorted(told, reverse=True)
        assert sum(exp(value) for value in told) <= 1 + _CLOSE
        assert all(value >= logprob - _CLOSE for value in told[:1]), "one is better than the best"
        same = [one.logprob for one in top if one.token == token]
        assert not same or abs(same[0] - logprob) < _CLOSE
