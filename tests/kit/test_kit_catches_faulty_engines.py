"""The kit's test of the right name notices each of the faults in broken_engines.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kit.verdicts import Verdicts, verdicts_on

CAUGHT_BY = {
    "FaultyEngine": "",
    "StartsWithEachToken": "test_a_request_starts_and_gives_tokens_and_finishes",
    "SaysNothingOfTheStart": "test_a_request_starts_and_gives_tokens_and_finishes",
    "GoesOnAfterTheEnd": "test_a_request_starts_and_gives_tokens_and_finishes",
    "TellsLogprobsUnasked": "test_a_request_starts_and_gives_tokens_and_finishes",
    "TellsAllAtTheEnd": "test_tokens_are_told_as_they_are_made",
    "IsNeverBusy": "test_an_idle_engine_says_so",
    "RunsMoreThanItMay": "test_more_requests_than_fit_wait_for_their_turn",
    "ForgetsWhatHasToWait": "test_more_requests_than_fit_wait_for_their_turn",
    "CountsTwice": "test_counters_count_what_was_told",
    "StopsOneShort": "test_length_is_exact",
    "SwallowsTheEndToken": "test_a_token_that_ends_a_sequence_is_its_last",
    "KnowsOneEndTokenOnly": "test_a_token_that_ends_a_sequence_is_its_last",
    "NamesTheTokenBeforeTheLength": "test_the_length_comes_before_the_end_of_sequence_token",
    "EndsInSpiteOfTheWish": "test_ignored_ends_are_tokens_like_any_other",
    "CountsFromTheResumption": "test_a_resumed_request_goes_on",
    "IgnoresSeeds": "test_the_seed_fixes_the_draw",
    "PenalizesThePrompt": "test_penalties_of_the_output_leave_the_prompt_alone",
    "IgnoresBiases": "test_bias_makes_and_forbids_tokens",
    "TellsTheWorstFirst": "test_top_tokens_are_the_best_in_order",
    "LosesTheLastLogprob": "test_logprobs_go_with_their_tokens_to_the_end",
    "CancelsLater": "test_nothing_comes_of_a_cancelled_request",
    "KeepsWhatIsCancelled": "test_cancelled_requests_leave_their_room",
    "CropsPrompts": "test_impossible_requests_fail_alone_and_say_why",
    "FailsTheNeighboursToo": "test_impossible_requests_fail_alone_and_say_why",
    "IgnoresWhatItDoesNotClaim": "test_what_is_not_claimed_is_refused",
    "IgnoresGrammars": "test_output_is_within_the_grammar",
    "IgnoresAdapters": "test_requests_have_their_own_adapters",
}


@pytest.fixture(scope="module")
def verdicts() -> Verdicts:
    return verdicts_on(Path(__file__).with_name("broken_engines.py"), CAUGHT_BY)


@pytest.mark.parametrize("fault", [fault for fault, test in CAUGHT_BY.items() if test])
def test_fault_is_caught_by_the_promise_it_breaks(fault: str, verdicts: Verdicts) -> None:
    failed = verdicts.failed.get(fault, set())
    assert any(what.startswith(f"call of {CAUGHT_BY[fault]}") for what in failed), failed


def test_engine_without_a_fault_passes(verdicts: Verdicts) -> None:
    assert verdicts.failed.get("FaultyEngine") is None


def test_every_fault_has_a_promise_that_it_breaks(verdicts: Verdicts) -> None:
    assert verdicts.faults == set(CAUGHT_BY)
