"""What the contract asks of the backend beyond the numbers of a step."""

import gc
import weakref

import numpy as np
import pytest
import torch
import transformers

from tests.families import GQA
from tgi_core.contract import ANY_LENGTH, DType, Fork, LogitsRows, Step
from tgi_core.errors import UsageError


def test_capabilities_hold_what_was_asked_for(family_folder, load):
    limits = load(
        family_folder("llama"),
        cache_tokens=100,
        max_rows=3,
        max_sequence_tokens=90,
        max_step_tokens=40,
    ).capabilities
    assert (limits.cache_tokens, limits.cache_grain_tokens) == (112, 16)
    assert (limits.max_rows, limits.max_sequences) == (3, 12)
    assert (limits.max_sequence_tokens, limits.max_step_tokens) == (90, 40)
    assert limits.vocab_size == 97
    assert limits.fork is Fork.ANY
    assert limits.mixed and limits.chunked
    assert limits.draft_lengths == (ANY_LENGTH,)
    assert limits.logits is LogitsRows.ALL


def test_the_longest_sequence_is_the_models_or_the_caches(family_folder, load):
    folder = family_folder("llama")
    assert load(folder, cache_tokens=4096).capabilities.max_sequence_tokens == 256
    assert load(folder, cache_tokens=64).capabilities.max_sequence_tokens == 64


@pytest.mark.parametrize(
    ("window", "longest"), [(None, 256), (48, 48), (300, 256)], ids=["none", "short", "long"]
)
def test_a_window_that_only_the_models_mask_knows_limits_the_sequence(
    new_model, load, window, longest
):
    config = transformers.PhimoeConfig(
        **GQA, num_local_experts=2, num_experts_per_tok=1, sliding_window=window
    )
    assert load(new_model(config), cache_tokens=4096).capabilities.max_sequence_tokens == longest


def test_a_window_that_attention_is_told_of_limits_nothing(new_model, load):
    config = transformers.MistralConfig(**GQA, sliding_window=48)
    assert load(new_model(config), cache_tokens=4096).capabilities.max_sequence_tokens == 256


def test_a_refused_reserve_changes_nothing(family_folder, drive):
    driver = drive(family_folder("llama"), cache_tokens=64)
    driver.check({0: list(range(10, 30)), 1: list(range(30, 40))})
    driver.fork(0, 2, 18)
    used = driver.backend.stats().cache_tokens_used
    assert used == 48
    assert not driver.backend.reserve(1, 49)
    assert not driver.backend.reserve(2, 40)  # a block for the copy, and one more
    assert driver.backend.stats().cache_tokens_used == used
    driver.check({1: [5], 0: [6]})
    driver.check({2: [7]})


def test_released_blocks_are_free_again(family_folder, drive):
    driver = drive(family_folder("llama"), cache_tokens=64)
    for _ in range(5):
        driver.check({0: list(range(10, 70))})
        driver.release(0)
        driver.release(0)
        assert driver.backend.stats().cache_tokens_used == 0


def test_a_step_may_want_no_logits_or_some(family_folder, drive):
    driver = drive(family_folder("llama"))
    assert driver.backend.reserve(0, 8)

    def step(past, tokens, out):
        one = np.array([0], np.int32)
        return driver.backend.step(
            Step(
                seq=one,
                past=one + past,
                n=one + len(tokens),
                tokens=np.array(tokens, np.int32),
                out=np.array(out, np.int32),
            )
        ).numpy()

    assert step(0, [5, 6, 7], []).shape == (0, 97)
    logits = step(3, [8, 9, 10, 11], [1, 3])
    expected = driver.expected([5, 6, 7, 8, 9, 10, 11])
    np.testing.assert_allclose(logits, expected[[4, 6]], atol=1e-4)
    logits[:] = 0  # the caller may write


def test_rows_of_very_different_lengths_are_exact_together(new_model, llama_config, drive):
    folder = new_model(llama_config(max_position_embeddings=2048))
    driver = drive(folder, cache_tokens=4096, max_step_tokens=2048)
    rng = np.random.default_rng(3)
    driver.step({0: rng.integers(3, 97, 1100).tolist(), 1: [4, 5, 6], 2: list(range(9, 90))})
    driver.check({2: [7], 0: [8], 1: [9], 3: [10]})
    driver.check({1: [7, 8], 0: [8, 9], 2: [9, 10]})


def test_nan_in_one_sequence_never_reaches_another(family_folder, drive):
    """A block that held NaN is given to a sequence that fills only part of it."""
    driver = drive(family_folder("llama"), cache_tokens=64)
    driver.check({0: list(range(10, 70))})
    for pool in (*driver.backend._loaded.cache._keys, *driver.backend._loaded.cache._values):
        pool[:-1] = torch.nan
    driver.release(0)
    driver.check({0: list(range(10, 15)), 1: list(range(10, 27))})
    driver.check({1: [5], 0: [6]})
    driver.check({0: [5, 6], 1: [7, 8]})


def test_a_step_that_fails_leaves_the_cache_as_it_was(family_folder, drive):
    driver = drive(family_folder("llama"))
    driver.check({0: [5, 6, 7]})
    with pytest.raises(IndexError):
        driver.step({0: [1_000_000]})
    driver.check({0: [8]})


def test_warm_up_leaves_the_cache_empty(family_folder, drive):
    driver = drive(family_folder("llama"), cache_tokens=32)
    seen = []
    driver.backend.warm_up(lambda phase, done, total, unit="": seen.append((phase, done, total)))
    assert seen[-1] == ("warming up", 2, 2)
    assert driver.backend.stats().cache_tokens_used == 0
    driver.check({0: [5, 6, 7]})


def test_progress_reaches_the_total(new_model, llama_config, make_request, load):
    from tgi_backend_torch.runner import TorchBackend

    seen = []
    backend = TorchBackend()
    backend.load(
        make_request(new_model(llama_config())),
        lambda phase, done, total, unit="": seen.append((phase, done, total, unit)),
    )
    backend.close()
    assert {(phase, unit) for phase, _, _, unit in seen} == {("loading weights", "bytes")}
    dones = [done for _, done, _, _ in seen]
    assert dones == sorted(dones)
    assert dones[-1] == pytest.approx(seen[-1][2], rel=0.1)  # headers are not weights


def test_bfloat16_runs_close_to_float32(family_folder, drive):
    driver = drive(family_folder("llama"), dtype=DType.BFLOAT16)
    cache = driver.backend._loaded.cache
    assert cache.dtype is torch.bfloat16
    logits = driver.step({0: list(range(10, 40))})[0]
    expected = driver.expected(range(10, 40))
    assert np.corrcoef(logits.ravel(), expected.ravel())[0, 1] > 0.99
    assert logits.dtype == np.float32


def test_a_float32_checkpoint_stays_float32_by_default(family_folder, drive):
    driver = drive(family_folder("llama"), dtype=None)
    driver.check({0: list(range(10, 40))})


def test_loading_prints_nothing(family_folder, load, capfd):
    load(family_folder("llama, tied"))
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""


def test_close_frees_the_model(family_folder, load):
    backend = load(family_folder("llama"))
    model = weakref.ref(backend._loaded.computing._model.model)
    backend.close()
    gc.collect()
    assert model() is None


def test_two_backends_do_not_know_each_other(family_folder, drive):
    one, other = drive(family_folder("llama")), drive(family_folder("qwen2"))
    one.check({0: [5, 6, 7]})
    other.check({0: [9, 8]})
    one.check({0: [8]})
    other.check({0: [7]})


def test_threads_are_set(family_folder, load):
    before = torch.get_num_threads()
    try:
        load(family_folder("llama"), num_threads=1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    "wish",
    [
        {"options": {"speed": "11"}},
        {"device": "cuda"},
        {"quantize": "awq"},
        {"num_threads": 0},
        {"max_rows": 0},
        {"max_sequence_tokens": 257},
    ],
    ids=lambda wish: next(iter(wish)),
)
def test_wishes_that_cannot_be_met_are_usage_errors(wish, family_folder, load):
    with pytest.raises(UsageError):
        load(family_folder("llama"), **wish)
