"""The kit's test of the right name notices each of the faults in broken_backends.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kit.verdicts import Verdicts, verdicts_on

CAUGHT_BY = {
    "FaultyBackend": "",
    "DropsTheLastToken": "test_every_token_of_the_prompt_is_seen",
    "IgnoresTheOrderOfTokens": "test_order_of_tokens_matters",
    "MistakesEveryToken": "test_logits_equal_the_reference",
    "AttendsToStaleCells": "test_reused_id_shows_nothing_of_the_old_sequence",
    "ForgetsToRestartPositions": "test_preempted_sequence_recomputes_the_same",
    "BeginsChunksOneTooEarly": "test_chunked_prefill_equals_whole",
    "TruncatesWholeBlocksOnly": "test_truncate_is_exact_at_every_length",
    "CropsLongPrompts": "test_longest_prefill_equals_its_pieces",
    "CropsPromptsOverTheLimit": "test_prefill_over_the_limit_is_refused_or_right",
    "SwapsRows": "test_row_order_does_not_matter",
    "ReturnsTheFirstRowsInsteadOfTheWanted": "test_only_the_rows_that_were_asked_for_come_back",
    "ReturnsTheLastTokensInsteadOfTheWanted": "test_logits_of_any_token_can_be_had",
    "UsesTheFirstBlockTableForAllRows": "test_neighbours_do_not_matter",
    "DecodesWithoutProtectingIdleSlots": "test_decoding_a_subset_leaves_idle_rows_alone",
    "KeepsStateBetweenSteps": "test_equal_steps_give_equal_logits",
    "ReturnsItsOwnArrays": "test_caller_may_write_to_logits",
    "ReadsLogitsTooLate": "test_logits_last_until_the_next_step",
    "WritesThroughSharedPrefixes": "test_source_and_fork_go_on_independently",
    "ForgetsToCopySharedBlocks": "test_fork_is_exact_at_every_length",
    "TakesRoomThatItRefuses": "test_refused_reserve_changes_nothing",
    "LeaksABlockNowAndThen": "test_cache_can_be_filled_and_freed_again_and_again",
    "TruncateKeepsTheRoom": "test_truncate_gives_room_back",
    "RoundsForksDown": "test_fork_is_exact_at_every_length",
    "RefusesForks": "test_fork_is_exact_at_every_length",
    "CannotGoOnWithAChunk": "test_chunked_prefill_equals_whole",
    "CannotMix": "test_prefill_and_decode_share_a_step",
    "DropsRowsBeyondTheFourth": "test_step_of_most_rows",
    "ClaimsMoreCacheThanItHas": "test_cache_can_be_filled_and_freed_again_and_again",
    "CannotVerifyDrafts": "test_draft_rows_equal_decoding_one_by_one",
    "VerifiesDraftsOfOneLength": "test_rows_with_drafts_share_a_step",
    "HearsNoOptions": "test_unknown_options_are_refused",
    "IgnoresAdapters": "test_adapter_changes_the_logits",
    "GivesAllRowsTheFirstAdapter": "test_rows_of_several_adapters_equal_each_alone",
    "GivesDecodingRowsNoAdapter": "test_chunks_and_decoding_with_an_adapter_equal_the_whole",
    "KeepsTheOldAdapterAtAPlace": "test_place_is_the_new_adapters_alone",
    "AdaptsTheBaseModelToo": "test_base_rows_are_the_base_models",
    "TakesAnythingForAnAdapter": "test_bad_adapter_is_refused_and_changes_nothing",
    "ClaimsNoAdapters": "test_adapters_are_held_if_and_only_if_they_are_claimed",
    "IgnoresImages": "test_an_image_changes_the_logits",
    "BeginsEachPartOfAnImageAnew": "test_an_image_in_chunks_equals_the_whole",
    "ShowsAllRowsTheFirstImage": "test_rows_with_images_equal_each_alone",
    "TakesAnythingForAnImage": "test_a_bad_image_is_refused_and_changes_nothing",
    "SamplesMaskedTokens": "test_device_chooses_what_the_reference_chooses",
    "SamplesWithoutPenalties": "test_device_chooses_what_the_reference_chooses",
    "DrawsInTheOrderOfProbability": "test_device_chooses_what_the_reference_chooses",
    "TakesTheLogprobBeforePenalties": "test_device_chooses_what_the_reference_chooses",
    "PoolsOverTheWholeStep": "test_texts_embedded_together_equal_each_alone",
    "PoolsPaddingToo": "test_texts_embedded_together_equal_each_alone",
    "PoolsTheFirstTokenInstead": "test_every_token_of_the_text_counts",
    "PoolsAPartAsIfItWereWhole": "test_text_in_parts_equals_whole",
    "EmbedsInTheFirstSlot": "test_embedding_disturbs_no_generation",
    "EmbedsInDoublePrecision": "test_reused_id_embeds_the_same",
    "NamesTokensByRow": "test_step_may_name_tokens_that_nobody_has_read",
}


@pytest.fixture(scope="module")
def verdicts() -> Verdicts:
    return verdicts_on(Path(__file__).with_name("broken_backends.py"), CAUGHT_BY)


@pytest.mark.parametrize("fault", [fault for fault, test in CAUGHT_BY.items() if test])
def test_fault_is_caught_by_the_promise_it_breaks(fault: str, verdicts: Verdicts) -> None:
    failed = verdicts.failed.get(fault, set())
    assert any(what.startswith(f"call of {CAUGHT_BY[fault]}") for what in failed), failed


def test_backend_without_a_fault_passes(verdicts: Verdicts) -> None:
    assert verdicts.failed.get("FaultyBackend") is None


def test_every_fault_has_a_promise_that_it_breaks(verdicts: Verdicts) -> None:
    assert verdicts.faults == set(CAUGHT_BY)
