"""Each step of the numpy sampler against transformers' logits processor of that name.

Over infinities, ties, masks, extreme temperatures and a vocabulary of 150,000 tokens. Where this
sampler differs by decision, a test says so and shows that the difference is that one alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sampling_batches import batch_of, packed
from tgi_core.contract import SamplingParams
from tgi_core.sampling.logprobs import log_normalizer
from tgi_core.sampling.penalties import adjust
from tgi_core.sampling.reference import sample
from tgi_core.sampling.truncation import Candidates, truncate

torch = pytest.importorskip("torch")
hf = pytest.importorskip("transformers.generation.logits_process")

LARGE = 150_000
EDGE = 2e-5
"""Mass by which transformers' sums, in float32, may be off; the large vocabulary needs the most."""


def logits_of(seed: int, vocab: int, kind: str) -> np.ndarray:
    """float32 (vocab,)."""
    rng = np.random.default_rng(seed)
    normal = rng.standard_normal(vocab)
    match kind:
        case "flat":
            logits = normal * 0.01
        case "plain":
            logits = normal * 2
        case "peaked":
            logits = normal * 12
        case "ties":
            logits = np.round(normal * 2)
        case "all equal":
            logits = np.full(vocab, 3.25)
        case "few":
            logits = np.where(rng.random(vocab) < 5 / vocab, normal, -np.inf)
            logits[rng.integers(vocab)] = 0.5
        case "masked":
            logits = np.where(rng.random(vocab) < 0.5, normal * 3, -np.inf)
            logits[rng.integers(vocab)] = 1.0
        case "huge":
            logits = normal * 1e30
    return logits.astype(np.float32)


KINDS = ("flat", "plain", "peaked", "ties", "all equal", "few", "masked", "huge")
rows = st.builds(
    logits_of, st.integers(0, 10**9), st.sampled_from([2, 7, 311, 1000]), st.sampled_from(KINDS)
)
large_rows = pytest.mark.parametrize(
    "logits",
    [logits_of(5, LARGE, kind) for kind in ("plain", "peaked", "ties", "masked")],
    ids=["plain", "peaked", "ties", "masked"],
)
temperatures = st.sampled_from([1e-4, 0.05, 0.7, 1.0, 1.3, 50.0, 1e4])


def ours(logits: np.ndarray, **limits: float) -> Candidates:
    neutral = dict(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, typical_p=1.0)
    return truncate(np.arange(len(logits)), logits.copy(), **{**neutral, **limits})


def theirs(logits: np.ndarray, *processors: object, ids: Sequence[int] = (0,)) -> np.ndarray:
    """float32 (vocab,): scores, -inf where a processor dropped a token."""
    scores, history = torch.from_numpy(logits[None].copy()), torch.tensor([ids], dtype=torch.long)
    for processor in processors:
        scores = processor(history, scores)
    return scores[0].numpy()


def probabilities(logits: np.ndarray) -> np.ndarray:
    exact = logits.astype(np.float64)
    p = np.exp(exact - exact.max())
    return p / p.sum()


def same_logprobs(candidates: Candidates, scores: np.ndarray) -> None:
    """Of tokens that both kept, up to the mass of the few that only one of them did."""
    mine = candidates.logits.astype(np.float64) - log_normalizer(candidates)
    hers = torch.log_softmax(torch.from_numpy(scores).double(), -1).numpy()[candidates.ids]
    both = np.isfinite(hers) & np.isfinite(mine)
    np.testing.assert_allclose(mine[both], hers[both], rtol=1e-4, atol=1e-3)


def kept(scores: np.ndarray) -> set[int]:
    return set(np.flatnonzero(scores > -np.inf).tolist())


def possible(candidates: Candidates) -> set[int]:
    return set(candidates.ids[candidates.logits > -np.inf].tolist())


@settings(max_examples=100, deadline=None)
@given(rows, temperatures)
def test_temperature(logits: np.ndarray, temperature: float) -> None:
    with np.errstate(over="ignore"):
        candidates = ours(logits, temperature=temperature)
    scores = theirs(logits, hf.TemperatureLogitsWarper(temperature))
    np.testing.assert_array_equal(candidates.logits, scores)
    if np.isfinite(scores.max()):
        same_logprobs(candidates, scores)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_infinite_logits_win_where_transformers_has_only_nan(temperature: float) -> None:
    logits = np.array([1.0, np.inf, -np.inf, np.inf], np.float32)
    assert torch.softmax(torch.from_numpy(logits), -1).isnan().any()
    u = (np.arange(50) + 0.5) / 50
    params = SamplingParams(temperature=temperature, top_p=0.9, num_top=3)
    result = sample(np.repeat(logits[None], 50, axis=0), batch_of([params] * 50, uniform=u))
    assert set(result.ids.tolist()) == ({1, 3} if temperature else {1})
    assert result.top_ids[0].tolist() == [1, 3, -1]
    np.testing.assert_allclose(result.top_logprobs[0, :2], np.log(0.5), rtol=1e-6)


@settings(max_examples=100, deadline=None)
@given(rows, st.sampled_from([1, 2, 5, 100, 999, 5000]))
def test_top_k_with_all_ties_of_the_last(logits: np.ndarray, top_k: int) -> None:
    scores = theirs(logits, hf.TopKLogitsWarper(top_k))
    candidates = ours(logits, top_k=top_k)
    assert possible(candidates) == kept(scores)
    same_logprobs(candidates, scores)


def check_top_p(logits: np.ndarray, top_p: float) -> None:
    top_p = float(np.float32(top_p))
    candidates = ours(logits, top_p=top_p)
    candidates = candidates.keep(np.flatnonzero(candidates.weights))
    p = probabilities(logits)
    order = np.argsort(-p, kind="stable")
    mass = np.cumsum(p[order])
    # the shortest prefix that reaches top_p, of equal tokens those with the lower ids
    least, most = (int(np.searchsorted(mass, top_p + off)) + 1 for off in (-1e-9, 1e-9))
    count = len(candidates.ids)
    assert least <= count <= most
    assert set(candidates.ids.tolist()) == set(order[:count].tolist())
    # transformers agrees on how many, up to its rounding, and on which but for ties at the cut
    scores = theirs(logits, hf.TopPLogitsWarper(top_p))
    hers = len(kept(scores))
    least, most = (int(np.searchsorted(mass, top_p + off)) + 1 for off in (-EDGE, EDGE))
    assert least <= hers <= most
    if hers == count:
        np.testing.assert_array_equal(
            np.sort(logits[candidates.ids]), np.sort(logits[[*kept(scores)]])
        )
        same_logprobs(candidates, scores)


@settings(max_examples=200, deadline=None)
@given(rows, st.sampled_from([1e-6, 0.05, 0.3, 0.5, 0.9, 0.95, 0.999, 0.999999]))
def test_top_p(logits: np.ndarray, top_p: float) -> None:
    check_top_p(logits, top_p)


@pytest.mark.parametrize("top_p", [0.1, 0.9, 0.9999])
@large_rows
def test_top_p_of_a_large_vocabulary(logits: np.ndarray, top_p: float) -> None:
    check_top_p(logits, top_p)


@settings(max_examples=100, deadline=None)
@given(rows, st.sampled_from([1e-6, 0.01, 0.1, 0.5, 1.0]))
def test_min_p(logits: np.ndarray, min_p: float) -> None:
    candidates = ours(logits, min_p=min_p)
    scores = theirs(logits, hf.MinPLogitsWarper(min_p))
    p = probabilities(logits)
    for token in possible(candidates) ^ kept(scores):
        assert p[token] / p.max() == pytest.approx(min_p, rel=1e-5)
    same_logprobs(candidates, scores)


def check_typical(logits: np.ndarray, typical_p: float) -> None:
    typical_p = float(np.float32(typical_p))
    candidates = ours(logits, typical_p=typical_p)
    candidates = candidates.keep(np.flatnonzero(candidates.weights))
    p = probabilities(logits)
    with np.errstate(divide="ignore", invalid="ignore"):
        surprise = -np.log(p)
        distance = np.abs(surprise - np.nansum(p * surprise))
    scores = theirs(logits, hf.TypicalLogitsWarper(typical_p))
    # transformers keeps all ties of the last one, and its distances are of float32
    only_hers = kept(scores) - possible(candidates)
    only_ours = possible(candidates) - kept(scores)
    last = distance[candidates.ids].max()
    near = 1e-3 * max(1.0, abs(float(surprise[np.isfinite(surprise)].max())))
    disputed = np.flatnonzero(np.abs(distance - last) < near)
    assert only_hers | only_ours <= set(disputed.tolist())
    # ours is the shortest prefix of its order
    order = np.argsort(distance[candidates.ids], kind="stable")
    mass = np.cumsum(p[candidates.ids][order])
    assert mass[-1] >= typical_p - 1e-6
    assert len(mass) == 1 or mass[-2] < typical_p + 1e-6


@settings(max_examples=200, deadline=None)
@given(rows, st.sampled_from([1e-6, 0.1, 0.5, 0.9, 0.99]))
def test_typical_p(logits: np.ndarray, typical_p: float) -> None:
    check_typical(logits, typical_p)


@large_rows
def test_typical_p_of_a_large_vocabulary(logits: np.ndarray) -> None:
    check_typical(logits, 0.9)


def adjusted(logits: np.ndarray, params: SamplingParams, **more: object) -> np.ndarray:
    scores = logits[None].copy()
    adjust(scores, batch_of([params], **more))
    return scores[0]


def some_tokens(vocab: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, vocab - 1), max_size=30)


@settings(max_examples=100, deadline=None)
@given(rows, st.data(), st.sampled_from([0.01, 0.8, 1.0, 1.2, 1e3]))
def test_repetition_penalty_over_prompt_and_output(
    logits: np.ndarray, data: st.DataObject, penalty: float
) -> None:
    prompt = data.draw(some_tokens(len(logits)))
    output = data.draw(some_tokens(len(logits)))
    with np.errstate(over="ignore"):
        mine = adjusted(
            logits,
            SamplingParams(repetition_penalty=penalty),
            histories=[counts(prompt, output)],
        )
    if prompt + output:
        processor = hf.RepetitionPenaltyLogitsProcessor(penalty)
        np.testing.assert_array_equal(mine, theirs(logits, processor, ids=prompt + output))
    else:
        np.testing.assert_array_equal(mine, logits)


def counts(prompt: Sequence[int], output: Sequence[int]) -> dict[int, int]:
    return {token: output.count(token) for token in {*prompt, *output}}


def tgi_frequency_penalty(
    logits: np.ndarray, penalty: float, ids: Sequence[int], width: int
) -> np.ndarray:
    """TGI's rule, from its words: minus penalty times the token's share of the padded row."""
    share = np.bincount(ids, minlength=len(logits))[: len(logits)] / width
    return (logits - np.float32(penalty) * share.astype(np.float32)).astype(np.float32)


@settings(max_examples=100, deadline=None)
@given(rows, st.data(), st.sampled_from([-2.0, 0.3, 2.0]))
def test_frequency_penalty_is_tgis_without_the_prompt_and_the_neighbours(
    logits: np.ndarray, data: st.DataObject, penalty: float
) -> None:
    """Decision 2: TGI's depends on the longest row of the batch; counting is OpenAI's."""
    prompt = data.draw(some_tokens(len(logits)))
    output = data.draw(some_tokens(len(logits)))
    params = SamplingParams(frequency_penalty=penalty)
    mine = adjusted(logits, params, histories=[counts(prompt, output)])
    ids = np.array(output, np.intp)
    expected = tgi_frequency_penalty(logits, penalty, ids, width=1)
    np.testing.assert_allclose(mine, expected, rtol=1e-6, atol=1e-6)
    # a multiple of TGI's for this output in a batch of any width
    scaled = tgi_frequency_penalty(logits, penalty * 64, ids, width=64)
    np.testing.assert_allclose(mine, scaled, rtol=1e-5, atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(rows, st.data(), st.sampled_from([-2.0, 0.5, 2.0]))
def test_presence_penalty_is_openais(
    logits: np.ndarray, data: st.DataObject, penalty: float
) -> None:
    """Decision 2: TGI makes a repetition penalty of it. transformers has none."""
    prompt = data.draw(some_tokens(len(logits)))
    output = data.draw(some_tokens(len(logits)))
    params = SamplingParams(presence_penalty=penalty)
    mine = adjusted(logits, params, histories=[counts(prompt, output)])
    present = np.isin(np.arange(len(logits)), output)
    np.testing.assert_array_equal(mine, np.where(present, logits - np.float32(penalty), logits))


@settings(max_examples=50, deadline=None)
@given(rows, st.data())
def test_logit_bias(logits: np.ndarray, data: st.DataObject) -> None:
    tokens = st.integers(1, len(logits) - 1)  # transformers 5.17 refuses 0
    bias = data.draw(st.dictionaries(tokens, st.floats(-100, 100, width=32), min_size=1))
    mine = adjusted(logits, SamplingParams(logit_bias=tuple(bias.items())))
    processor = hf.SequenceBiasLogitsProcessor([[[token], value] for token, value in bias.items()])
    np.testing.assert_array_equal(mine, theirs(logits, processor, ids=[1, 1]))


@settings(max_examples=50, deadline=None)
@given(rows)
def test_greedy_takes_the_first_of_the_most_probable(logits: np.ndarray) -> None:
    result = sample(logits[None].copy(), batch_of([SamplingParams(logprobs=True)]))
    assert result.ids[0] == torch.from_numpy(logits).argmax()
    expected = torch.log_softmax(torch.from_numpy(logits), -1)[result.ids[0]]
    assert result.logprobs[0] == pytest.approx(float(expected), abs=1e-3)


VOCAB = 64
ALLOWED = [t for t in range(VOCAB) if t % 5]
GREEN = [t for t in range(VOCAB) if t % 2]
ORDER = {
    "boost": lambda ids, s: s + 2.0 * torch.tensor([float(t in GREEN) for t in range(VOCAB)]),
    "repetition": hf.RepetitionPenaltyLogitsProcessor(1.5),
    "frequency": lambda ids, s: s - 0.7 * torch.bincount(ids[0], minlength=VOCAB),
    "mask": lambda ids, s: s.masked_fill(
        torch.tensor([t not in ALLOWED for t in range(VOCAB)]), -torch.inf
    ),
    "temperature": hf.TemperatureLogitsWarper(0.6),
    "top_k": hf.TopKLogitsWarper(12),
    "top_p": hf.TopPLogitsWarper(0.85),
    "typical_p": hf.TypicalLogitsWarper(0.7),
}
"""TGI's, as the contract has it: watermark, repetition, frequency, grammar, then the warpers."""


def test_all_steps_together_come_in_tgis_order() -> None:
    params = SamplingParams(
        repetition_penalty=1.5,
        frequency_penalty=0.7,
        temperature=0.6,
        top_k=12,
        top_p=0.85,
        typical_p=0.7,
    )
    differs: set[tuple[str, str]] = set()
    for seed in range(30):
        logits = (np.random.default_rng(seed).standard_normal(VOCAB) * 2).astype(np.float32)
        output = np.random.default_rng(seed + 1000).integers(0, VOCAB, 40).tolist()
        scores = adjusted(
            logits,
            params,
            histories=[counts([], output)],
            mask_rows=[0],
            mask=packed(ALLOWED, VOCAB)[None],
            boosts=[(0, packed(GREEN, VOCAB), 2.0)],
        )
        candidates = ours(scores, temperature=0.6, top_k=12, top_p=0.85, typical_p=0.7)
        expected = theirs(logits, *ORDER.values(), ids=output)
        assert possible(candidates) == kept(expected)
        same_logprobs(candidates, expected)
        for pair in pairwise(ORDER):
            swapped = {
                **{pair[1] if n == pair[0] else pair[0] if n == pair[1] else n: 0 for n in ORDER}
            }
            other = theirs(logits, *(ORDER[name] for name in swapped), ids=output)
            if not np.allclose(other, expected, rtol=1e-4, atol=1e-4):
                differs.add(pair)
    # every order of neighbours is told apart, but for two that commute: penalties multiply or
    # subtract, and a mask forbids whatever the number
    assert differs == set(pairwise(ORDER)) - {
        ("frequency", "mask"),
        ("mask", "temperature"),
        ("temperature", "top_k"),
    }


@large_rows
def test_draws_from_a_large_vocabulary_stay_among_the_kept(logits: np.ndarray) -> None:
    params = SamplingParams(temperature=0.9, top_k=500, top_p=0.8, logprobs=True, num_top=5)
    candidates = ours(logits, temperature=0.9, top_k=500, top_p=0.8)
    u = (np.arange(20) + 0.5) / 20
    result = sample(np.repeat(logits[None], 20, axis=0), batch_of([params] * 20, uniform=u))
    assert set(result.ids.tolist()) <= possible(candidates)
    scores = np.full(LARGE, -np.inf, np.float32)
    scores[candidates.ids] = candidates.logits
    expected = torch.log_softmax(torch.from_numpy(scores), -1).numpy()
    np.testing.assert_allclose(result.logprobs, expected[result.ids], atol=1e-3)
    best = np.sort(expected)[::-1][:5]
    np.testing.assert_allclose(result.top_logprobs[0], best, atol=1e-3)
