"""The Torch sampler's documented order: bias, penalties, temperature, min-p, top-k, top-p, draw."""

from __future__ import annotations

import torch

from tensorrt_llm.executor.result import Logprob
from tensorrt_llm.sampling_params import SamplingParams


def check_heeded(params: SamplingParams, release: str) -> None:
    """Fails on wishes that the release takes and forgets: a client would never know."""
    if release.startswith("1.2."):
        for name in (
            *("seed", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"),
        ):
            assert getattr(params, name) is None, f"{release} ignores {name} in silence"
    for name in ("n", "best_of"):
        assert getattr(params, name) == 1


def sample(
    logits: torch.Tensor,
    params: SamplingParams,
    prompt: list[int],
    output: list[int],
    mask: torch.Tensor | None,
) -> tuple[int, dict[int, Logprob]]:
    """A token, and the log-probabilities that were asked for."""
    raw = torch.log_softmax(logits, -1)
    if params.embedding_bias is not None:
        assert params.embedding_bias.dtype == torch.float32
        assert params.embedding_bias.shape == logits.shape
        logits = logits + params.embedding_bias
    logits = _penalized(logits, params, prompt, output)
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf)
    token = int(logits.argmax()) if params.greedy else _draw(logits, params, len(output))
    return token, _logprobs(raw, token, params.logprobs)


def _penalized(
    logits: torch.Tensor, params: SamplingParams, prompt: list[int], output: list[int]
) -> torch.Tensor:
    logits = logits.clone()
    seen = torch.bincount(torch.tensor(prompt + output), minlength=len(logits))
    counted = prompt[params.prompt_ignore_length or 0 :] + output
    counts = torch.bincount(torch.tensor(counted, dtype=torch.long), minlength=len(logits))
    if params.repetition_penalty is not None:
        penalty = params.repetition_penalty
        changed = torch.where(logits < 0, logits * penalty, logits / penalty)
        logits = torch.where(seen > 0, changed, logits)
    logits -= (params.presence_penalty or 0) * (counts > 0)
    return logits - (params.frequency_penalty or 0) * counts


def _draw(logits: torch.Tensor, params: SamplingParams, step: int) -> int:
    logits = logits / (params.temperature or 1.0)
    probs = torch.softmax(logits, -1)
    if params.min_p:
        probs = probs.where(probs >= params.min_p * probs.max(), 0)
    if params.top_k:
        best = probs.topk(min(params.top_k, len(probs))).values[-1]
        probs = probs.where(probs >= best, 0)
    if params.top_p is not None and params.top_p < 1:
        probs = probs / probs.sum()
        ordered, places = probs.sort(descending=True)
        beyond = ordered.cumsum(-1) - ordered > params.top_p
        probs[places[beyond]] = 0
    generator = None
    if params.seed is not None:
        generator = torch.Generator().manual_seed((params.seed * 1_000_003 + step) % 2**63)
    return int(torch.multinomial(probs, 1, generator=generator))


def _logprobs(raw: torch.Tensor, token: int, wanted: int | None) -> dict[int, Logprob]:
    """The model's own, of the best tokens and of the drawn one."""
    if not wanted:
        return {}
    values, places = raw.topk(wanted)
    found = {
        int(place): Logprob(float(value), rank)
        for rank, (place, value) in enumerate(zip(places, values, strict=True), 1)
    }
    rank = int((raw > raw[token]).sum()) + 1
    return {token: Logprob(float(raw[token]), rank), **found}
