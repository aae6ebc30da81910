"""Requests are refused in TGI's words, and what passes is what was asked for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tgi_core.contract import Feature
from tgi_core.errors import ValidationError
from tgi_core.text.validate import Draw, Limits, Wishes, check, to_request

LIMITS = Limits(
    max_input_tokens=10, max_total_tokens=16, vocab_size=100, features=frozenset(Feature)
)


def request_of(wishes=None, tokens=(1, 2, 3), limits=LIMITS):
    wishes = wishes or Wishes(prompt="x")
    check(wishes, limits)
    return to_request(wishes, tokens, limits, request_id="r", eos_token_ids=(9,), random_seed=77)


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"best_of": 3}, "`best_of` must be > 0 and <= 2. Given: 3"),
        ({"best_of": 2}, "you must use sampling when `best_of` is > 1"),
        ({"num_choices": 0}, "`n` must be > 0 and <= 16. Given: 0"),
        ({"num_choices": 17}, "`n` must be > 0 and <= 16. Given: 17"),
        (
            {"best_of": 2, "draw": Draw.ALWAYS, "seed": 1},
            "`seed` must not be set when `best_of` > 1",
        ),
        ({"temperature": 0.0}, "`temperature` must be strictly positive"),
        ({"temperature": -1.0}, "`temperature` must be strictly positive"),
        ({"temperature": 1e308}, "`temperature` must be a finite 32-bit number"),
        ({"temperature": float("nan")}, "`temperature` must be a finite 32-bit number"),
        ({"top_p": float("inf")}, "`top_p` must be a finite 32-bit number"),
        ({"repetition_penalty": 0.0}, "`repetition_penalty` must be strictly positive"),
        ({"frequency_penalty": 2.1}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
        ({"presence_penalty": -2.1}, "`presence_penalty` must be >= -2.0 and <= 2.0"),
        ({"top_p": 1.0}, "`top_p` must be > 0.0 and < 1.0"),
        ({"top_p": 0.0}, "`top_p` must be > 0.0 and < 1.0"),
        # what 32 bits make 0, 1 or infinity is that, as in TGI
        ({"top_p": 1e-60}, "`top_p` must be > 0.0 and < 1.0"),
        ({"top_p": 1 - 1e-12}, "`top_p` must be > 0.0 and < 1.0"),
        ({"typical_p": 1e-60}, "`typical_p` must be > 0.0 and < 1.0"),
        ({"temperature": 1e-60}, "`temperature` must be strictly positive"),
        ({"repetition_penalty": 1e-60}, "`repetition_penalty` must be strictly positive"),
        ({"typical_p": 1.0}, "`typical_p` must be > 0.0 and < 1.0"),
        ({"min_p": 1.5}, "`min_p` must be >= 0.0 and <= 1.0"),
        ({"top_k": 0}, "`top_k` must be strictly positive"),
        ({"top_k": -1}, "`top_k` must be strictly positive"),
        ({"max_new_tokens": 0}, "`max_new_tokens` must be strictly positive"),
        ({"stop": list("abcde")}, "`stop` supports up to 4 stop sequences. Given: 5"),
        ({"stop": [""]}, "`stop` sequences cannot be empty"),
        ({"stop": ["x" * 5000]}, "`stop` sequences must have at most 4096 characters"),
        ({"seed": 2**64}, "`seed` must be >= 0 and <= 18446744073709551615"),
        ({"top_n_tokens": 6}, "`top_n_tokens` must be >= 0 and <= 5. Given: 6"),
        ({"prompt": ""}, "`inputs` cannot be empty"),
        ({"prompt": []}, "`inputs` cannot be empty"),
        ({"truncate": 0}, "`truncate` must be strictly positive and less than 10. Given: 0"),
        ({"truncate": 11}, "`truncate` must be strictly positive and less than 10. Given: 11"),
        ({"logit_bias": {100: 1.0}}, "`logit_bias` token ids must be >= 0 and < 100. Given: 100"),
        ({"logit_bias": {-1: 1.0}}, "`logit_bias` token ids must be >= 0 and < 100. Given: -1"),
        ({"logit_bias": {1: 101.0}}, "`logit_bias` values must be >= -100 and <= 100"),
        (
            {"logit_bias": dict.fromkeys(range(2000), 0.0)},
            "`logit_bias` supports up to 1024 tokens. Given: 2000",
        ),
    ],
)
def test_what_is_out_of_limits_is_refused_in_tgis_words(wish, message):
    with pytest.raises(ValidationError) as refused:
        check(Wishes(**{"prompt": "x"} | wish), LIMITS)
    assert str(refused.value) == message


def test_the_first_of_several_faults_is_the_one_reported():
    with pytest.raises(ValidationError, match="temperature"):
        check(Wishes(prompt="", temperature=0.0, top_p=2.0, max_new_tokens=0), LIMITS)


@pytest.mark.parametrize(
    ("num_tokens", "new", "message"),
    [
        (
            10,
            7,
            "`inputs` tokens + `max_new_tokens` must be <= 16. "
            "Given: 10 `inputs` tokens and 7 `max_new_tokens`",
        ),
        (11, 1, "`inputs` must have less than 10 tokens. Given: 11"),
        (11, None, "`inputs` must have less than 10 tokens. Given: 11"),
        (
            17,
            None,
            "`inputs` tokens + `max_new_tokens` must be <= 16. "
            "Given: 17 `inputs` tokens and 0 `max_new_tokens`",
        ),
    ],
)
def test_what_exceeds_the_budget_is_refused_in_tgis_words(num_tokens, new, message):
    with pytest.raises(ValidationError) as refused:
        request_of(Wishes(prompt="x", max_new_tokens=new), [1] * num_tokens)
    assert str(refused.value) == message


def test_an_unsaid_length_is_the_rest_of_the_budget():
    assert request_of(tokens=[1] * 10).stop.max_new_tokens == 6


def test_more_than_1024_new_tokens_end_with_the_budget_instead_of_an_error():
    limits = replace(LIMITS, max_total_tokens=1100)
    wishes = Wishes(prompt="x", max_new_tokens=5000)
    assert request_of(wishes, limits=limits).stop.max_new_tokens == 1097


def test_no_request_leaves_without_room_for_a_token():
    limits = replace(LIMITS, max_input_tokens=16)
    with pytest.raises(ValidationError):
        request_of(tokens=[1] * 16, limits=limits)


def test_truncation_keeps_the_last_tokens():
    assert request_of(Wishes(prompt="x", truncate=2)).prompt == (2, 3)


@pytest.mark.parametrize("token", [-1, 100, 2**40])
def test_tokens_that_the_model_does_not_have_are_refused(token):
    with pytest.raises(ValidationError, match=f"Given: {token}"):
        request_of(tokens=[1, token])


@pytest.mark.parametrize(
    ("wish", "temperature"),
    [
        ({}, 0.0),
        ({"temperature": 1.0}, 0.0),
        ({"temperature": 0.5}, 0.5),
        ({"top_k": 3}, 1.0),
        ({"top_p": 0.5}, 1.0),
        ({"draw": Draw.ALWAYS}, 1.0),
        ({"draw": Draw.NEVER, "top_p": 0.5}, 0.0),
    ],
)
def test_tokens_are_drawn_only_if_something_shapes_the_distribution(wish, temperature):
    assert request_of(Wishes(prompt="x", **wish)).sampling.temperature == temperature


def test_a_seed_is_taken_as_given_or_made_up():
    assert request_of(Wishes(prompt="x", seed=2**64 - 1)).sampling.seed == 2**64 - 1
    assert request_of().sampling.seed == 77


@pytest.mark.parametrize(
    "wish",
    [
        {"seed": 1},
        {"typical_p": 0.5},
        {"min_p": 0.1},
        {"repetition_penalty": 1.1},
        {"frequency_penalty": 0.5},
        {"presence_penalty": 0.5},
        {"logit_bias": {1: 1.0}},
        {"top_n_tokens": 1},
        {"logprobs": True},
    ],
)
def test_what_the_engine_cannot_do_is_refused_by_name(wish):
    (name,) = wish
    with pytest.raises(ValidationError, match=f"`{name}` is not supported by the engine"):
        check(Wishes(prompt="x", **wish), replace(LIMITS, features=frozenset()))
