"""Grammars, by llguidance, as the real executor has them compiled in its processes."""

from __future__ import annotations

from pathlib import Path

import llguidance
import torch

from tensorrt_llm.sampling_params import GuidedDecodingParams


class GuidedDecoder:
    def __init__(self, path: Path, vocab_size: int, end_token: int) -> None:
        self._tokenizer = llguidance.LLTokenizer(
            str(path / "tokenizer.json"), n_vocab=vocab_size, eos_token=end_token
        )

    def matcher(self, params: GuidedDecodingParams) -> llguidance.LLMatcher:
        assert not params.structural_tag, "llguidance has none"
        if params.json_object:
            grammar = llguidance.LLMatcher.grammar_from_json_schema('{"type": "object"}')
        elif params.json is not None:
            grammar = llguidance.LLMatcher.grammar_from_json_schema(params.json)
        elif params.regex is not None:
            grammar = llguidance.LLMatcher.grammar_from_regex(params.regex)
        else:
            # not EBNF, as with xgrammar
            grammar = llguidance.LLMatcher.grammar_from_lark(params.grammar)
        matcher = llguidance.LLMatcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise ValueError(f"LLGuidance matcher error: {matcher.get_error()}")
        return matcher


def mask_of(matcher: llguidance.LLMatcher, vocab_size: int) -> torch.Tensor:
    """bool (vocab,): the tokens that may come next."""
    bits = torch.frombuffer(bytearray(matcher.compute_bitmask()), dtype=torch.uint8)
    return ((bits[:, None] >> torch.arange(8)) & 1).bool().flatten()[:vocab_size]
