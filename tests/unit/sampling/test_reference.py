"""The numpy sampler against transformers' own logits processors, row by row."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sampling_batches import batch_of
from tgi_core.contract import SamplingParams
from tgi_core.sampling.reference import sample
from tgi_core.sampling.seeds import uniform

VOCAB = 311


def random_logits(seed: int, rows: int = 1, scale: float = 4.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    logits = (rng.standard_normal((rows, VOCAB)) * scale).astype(np.float32)
    # ties and forbidden tokens are what real logits have too
    logits[:, rng.integers(0, VOCAB, 20)] = np.float32(1.5)
    logits[:, rng.integers(0, VOCAB, 10)] = -np.inf
    return logits


def kept_by_transformers(logits: np.ndarray, params: SamplingParams) -> np.ndarray:
    torch = pytest.importorskip("torch")
    from transformers.generation import logits_process as hf

    scores = torch.from_numpy(logits.copy())
    ids = torch.zeros((1, 1), dtype=torch.long)
    processors = [hf.TemperatureLogitsWarper(params.temperature)]
    if params.top_k:
        processors.append(hf.TopKLogitsWarper(params.top_k))
    if params.top_p < 1:
        processors.append(hf.TopPLogitsWarper(params.top_p))
    if params.min_p:
        processors.append(hf.MinPLogitsWarper(params.min_p))
    if params.typical_p < 1:
        processors.append(hf.TypicalLogitsWarper(params.typical_p))
    for processor in processors:
        scores = processor(ids, scores)
    return torch.softmax(scores, -1).numpy()[0]


def distribution(logits: np.ndarray, params: SamplingParams) -> np.ndarray:
    """Log-probability of every token, by forcing each in turn."""
    rows = np.repeat(logits, VOCAB, axis=0)
    batch = batch_of([params] * VOCAB, forced=list(range(VOCAB)))
    return np.exp(sample(rows, batch).logprobs)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    temperature=st.sampled_from([0.3, 0.7, 1.0, 1.9]),
    top_k=st.sampled_from([0, 1, 5, 60, 400]),
    top_p=st.sampled_from([1.0, 0.05, 0.5, 0.93]),
    min_p=st.sampled_from([0.0, 0.02, 0.3]),
    typical_p=st.sampled_from([1.0, 0.2, 0.9]),
)
def test_the_distribution_is_that_of_transformers(
    seed: int, temperature: float, top_k: int, top_p: float, min_p: float, typical_p: float
) -> None:
    params = SamplingParams(
        temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, typical_p=typical_p
    )
    logits = random_logits(seed)
    expected = kept_by_transformers(logits, params)
    actual = distribution(logits, params)
    # tokens of equal logits at a cut are told apart by id here; there, all or some of them are kept
    disputed = (actual > 0) != (expected > 0)
    assert len(set(logits[0, disputed].tolist())) <= 1
    agreed = (actual > 0) & (expected > 0)
    ratio = actual[agreed] / expected[agreed]
    assert np.allclose(ratio, ratio[0] if disputed.any() else 1, rtol=2e-3)


def test_repetition_penalty_is_that_of_transformers() -> None:
    torch = pytest.importorskip("torch")
    from transformers.generation import logits_process as hf

    logits, seen = random_logits(3), [5, 9, 200, 5]
    expected = hf.RepetitionPenaltyLogitsProcessor(1.7)(
        torch.tensor([seen]), torch.from_numpy(logits.copy())
    ).numpy()
    params = SamplingParams(repetition_penalty=1.7)
    rows = logits.copy()
    sample(rows, batch_of([params], histories=[dict.fromkeys(seen, 0)]))
    np.testing.assert_allclose(rows, expected, rtol=1e-6)


def test_frequency_and_presence_count_the_output_only() -> None:
    params = SamplingParams(frequency_penalty=0.5, presence_penalty=0.25)
    rows = np.zeros((1, VOCAB), np.float32)
    sample(rows, batch_of([params], histories=[{3: 0, 4: 1, 7: 3}]))
    assert rows[0, [3, 4, 7, 8]].tolist() == [0.0, -0.75, -1.75, 0.0]


def test_bias_comes_before_the_choice() -> None:
    rows = random_logits(5)
    params = SamplingParams(logit_bias=((17, 100.0),))
    assert sample(rows, batch_of([params])).ids.tolist() == [17]


def test_a_mask_leaves_only_what_it_allows() -> None:
    logits = random_logits(1, rows=3)
    words = np.zeros((1, -(-VOCAB // 32)), np.uint32)
    words[0, 250 // 32] |= np.uint32(1 << (250 % 32))
    logits[1, 250] = -3.0
    batch = batch_of(
        [SamplingParams(), SamplingParams(temperature=1.0), SamplingParams()],
        mask_rows=[1],
        mask=words.view(np.int32),
    )
    free = logits.argmax(axis=1)
    assert sample(logits, batch).ids.tolist() == [free[0], 250, free[2]]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_unusable_logits_are_marked_and_harm_no_other_row(temperature: float) -> None:
    logits = random_logits(2, rows=4)
    alone = sample(logits[3:].copy(), batch_of([SamplingParams(temperature=temperature)])).ids[0]
    logits[0, 7] = np.nan
    logits[1] = -np.inf
    logits[2, 11] = np.inf
    ids = sample(logits, batch_of([SamplingParams(temperature=temperature)] * 4)).ids
    assert ids.tolist() == [-1, -1, 11, alone]


def test_draws_follow_the_probabilities() -> None:
    draws = 20_000
    logits = np.log(np.array([[0.5, 0.2, 0.2, 0.1]], np.float32))
    u = uniform(np.full(draws, 7, np.uint64), np.arange(draws, dtype=np.uint64))
    batch = batch_of([SamplingParams(temperature=1.0)] * draws, uniform=u)
    counts = np.bincount(sample(np.repeat(logits, draws, axis=0), batch).ids, minlength=4)
    expected = draws * np.exp(logits[0])
    assert ((counts - expected) ** 2 / expected).sum() < 16.3  # chi-square, 3 degrees, p = 0.001


def test_draws_follow_the_probabilities_over_blocks_of_ids() -> None:
    draws, spread = 20_000, [3, 255, 256, 300, 511, 1000, 1001]
    p = np.array([0.3, 0.05, 0.15, 0.1, 0.1, 0.25, 0.05])
    logits = np.full((1, 1024), -np.inf, np.float32)
    logits[0, spread] = np.log(p)
    u = uniform(np.full(draws, 11, np.uint64), np.arange(draws, dtype=np.uint64))
    batch = batch_of([SamplingParams(temperature=1.0)] * draws, uniform=u)
    ids = sample(np.repeat(logits, draws, axis=0), batch).ids
    counts = np.bincount(ids, minlength=1024)[spread]
    assert counts.sum() == draws
    # chi-square, 6 degrees, p = 0.001
    assert ((counts - draws * p) ** 2 / (draws * p)).sum() < 22.5


def test_top_tokens_are_ordered_and_padded() -> None:
    logits = np.array([[0.0, 3.0, 3.0, -np.inf], [1.0, 0.0, 2.0, 0.5]], np.float32)
    result = sample(logits, batch_of([SamplingParams(num_top=4), SamplingParams(num_top=1)]))
    assert result.top_ids.tolist() == [[1, 2, 0, -1], [2, -1, -1, -1]]
    assert result.top_logprobs[0, 0] == result.top_logprobs[0, 1] == result.logprobs[0]
    assert np.isneginf(result.top_logprobs[0, 3])


def test_of_equal_tokens_the_lower_ids_are_listed() -> None:
    logits = np.array([[1.0, 3.0, 2.0, 2.0, 2.0]], np.float32)
    result = sample(logits, batch_of([SamplingParams(num_top=3)]))
    assert result.top_ids.tolist() == [[1, 2, 3]]


def test_greedy_log_probability_is_the_models_own() -> None:
    logits = random_logits(8)
    finite = logits[0][np.isfinite(logits[0])].astype(np.float64)
    expected = finite.max() - np.log(np.exp(finite).sum())
    result = sample(logits, batch_of([SamplingParams(logprobs=True)]))
    assert result.logprobs[0] == pytest.approx(expected, abs=1e-5)


def test_a_draw_depends_on_seed_and_place_alone() -> None:
    seeds = np.array([1, 2, 2**64 - 1, 1], np.uint64)
    places = np.array([0, 0, 5, 1], np.uint64)
    together = uniform(seeds, places)
    alone = [uniform(seeds[i : i + 1], places[i : i + 1])[0] for i in range(4)]
    assert together.tolist() == alone
    assert len(set(alone)) == 4
    assert ((together >= 0) & (together < 1)).all()


def test_a_large_vocabulary_takes_the_same_path() -> None:
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((1, 150_000)).astype(np.float32)
    for top_p in (0.2, 0.999999):
        params = SamplingParams(temperature=0.8, top_p=top_p, logprobs=True)
        result = sample(logits.copy(), batch_of([params]))
        p = np.exp(logits[0].astype(np.float64) / 0.8)
        p /= p.sum()
        order = np.argsort(-p, kind="stable")
        kept = order[: np.searchsorted(np.cumsum(p[order]), top_p) + 1]
        assert result.ids[0] in kept
        expected = np.log(p[result.ids[0]] / p[kept].sum())
        assert result.logprobs[0] == pytest.approx(expected, abs=1e-3)
