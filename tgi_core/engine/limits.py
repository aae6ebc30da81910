"""What an engine takes, by what its device can do, and why it does not take a request."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from tgi_core.contract import (
    Capabilities,
    EngineInfo,
    Feature,
    LogitsRows,
    Request,
    TwoWay,
    most_adjacent,
)
from tgi_core.errors import DoesNotFit

_ON_THE_HOST = frozenset(
    {
        Feature.LOGPROBS,
        Feature.TYPICAL_P,
        Feature.MIN_P,
        Feature.PENALTIES,
        Feature.LOGIT_BIAS,
        Feature.SEED,
    }
)
"""What core's sampler does with the logits of any device that gives them."""

_FEATURE_OF = {"watermark": Feature.WATERMARK}
"""Adjustments that a client's request can ask for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLimits:
    """What the operator wishes beyond what the backend is told at loading."""

    max_step_tokens: int | None = None
    max_chunk_tokens: int | None = None
    prefix_caching: bool = True
    steps_in_flight: int = 2
    """The backend's own limit holds as well."""
    num_drafts: int = 0
    """Longest draft; 0 makes none."""


def engine_info(
    capabilities: Capabilities,
    *,
    guided: bool = False,
    adapted: bool = False,
    sees: bool = False,
    adjustments: Collection[str] = (),
) -> EngineInfo:
    """What requests may ask for, from what the device can do and what there is besides it.

    Args:
        capabilities: the device's.
        guided: whether there is guidance.
        adapted: whether rows may have adapters.
        sees: whether prompts may hold images.
        adjustments: names of those that plugins offer.

    Raises:
        DoesNotFit: the cache holds not even two tokens.
    """
    longest = min(capabilities.max_sequence_tokens, capabilities.cache_tokens)
    if longest < 2:
        raise DoesNotFit(
            f"the KV cache holds {capabilities.cache_tokens} tokens, too few for a prompt and an "
            "answer: give it more with --cache-tokens."
        )
    encoder = capabilities.encoder
    if encoder is not None:
        longest -= len(encoder.start)
    longest_prompt = longest - 1 if capabilities.generates else longest
    if encoder is not None:
        at_once = min(capabilities.max_prefill_tokens, capabilities.max_step_tokens)
        longest_prompt = min(
            longest_prompt, at_once - len(encoder.start), encoder.max_prompt_tokens or longest
        )
    elif not capabilities.chunked:
        longest_prompt = min(
            longest_prompt, capabilities.max_prefill_tokens, capabilities.max_step_tokens
        )
    features: set[Feature] = set()
    if capabilities.generates:
        features |= _generating(capabilities.logits, guided=guided, adjustments=adjustments)
    if adapted and capabilities.generates:
        features.add(Feature.ADAPTER)
    if sees and capabilities.generates:
        features.add(Feature.IMAGE)
    if capabilities.embedding is not None:
        features.add(Feature.EMBEDDING)
    return EngineInfo(
        device=capabilities.device,
        vocab_size=capabilities.vocab_size,
        max_prompt_tokens=longest_prompt,
        max_sequence_tokens=longest,
        max_requests=capabilities.max_rows,
        cache_tokens=capabilities.cache_tokens,
        features=frozenset(features),
        generates=capabilities.generates,
        embedding=capabilities.embedding,
        encodes=encoder is not None,
        max_adjacent_images=capabilities.max_adjacent_images,
    )


def _generating(logits: LogitsRows, *, guided: bool, adjustments: Collection[str]) -> set[Feature]:
    features = set() if logits is LogitsRows.NONE else set(_ON_THE_HOST)
    if guided and features:
        features.add(Feature.GRAMMAR)
    if features:
        features.update(_FEATURE_OF[name] for name in adjustments if name in _FEATURE_OF)
    if logits is LogitsRows.ALL:
        features.add(Feature.PROMPT_LOGPROBS)
    return features


def fault_of(
    request: Request,
    info: EngineInfo,
    capabilities: Capabilities,
    adjustments: Collection[str] = (),
    max_block_tokens: int = 0,
) -> str | None:
    """Why a request can never be served; the API layer checks the same things first."""
    fault = info.fault_of(request)
    if fault is not None:
        return fault
    num_tokens = len(request.prompt) + len(request.resumed)
    if not (capabilities.chunked or request.embedding) and (
        num_tokens > capabilities.max_prefill_tokens
    ):
        return f"{num_tokens} tokens are more than the {capabilities.max_prefill_tokens} of a step"
    unknown = sorted(set(request.sampling.adjustments) - set(adjustments))
    if unknown or (request.sampling.adjustments and capabilities.logits is LogitsRows.NONE):
        name = unknown[0] if unknown else request.sampling.adjustments[0]
        return f"this engine cannot make the adjustment {name!r}"
    spans = [span for image in request.images for span in image.spans]
    borders = [border for span in spans for border in span]
    if not all(image.spans for image in request.images) or not all(b < e for b, e in spans):
        return "an image has no place in the prompt"
    if borders and (
        borders != sorted(borders) or borders[0] < 0 or borders[-1] > len(request.prompt)
    ):
        return "the images' places in the prompt overlap, or lie outside of it"
    most = info.max_adjacent_images
    if most is not None and most_adjacent(request.images) > most:
        return f"more than {most} images stand side by side"
    if request.images and request.embedding:
        return "images cannot be embedded"
    longest = _longest_block(request, capabilities.two_way)
    if longest > max_block_tokens:
        return (
            f"{longest} tokens would have to be computed at once for an image, and a step has room "
            f"for {max_block_tokens}: use a shorter prompt, or give the server larger steps"
        )
    return None


def _longest_block(request: Request, two_way: TwoWay) -> int:
    """Tokens in the longest run that must be computed in one step; 0 if there is none."""
    if not request.images or two_way is TwoWay.NONE:
        return 0
    if two_way is TwoWay.PROMPTS:
        return len(request.prompt)
    return max(end - begin for image in request.images for begin, end in image.spans)
