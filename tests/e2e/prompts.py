"""Prompts for equality tests: 32 of 1 to 2,000 tokens, English text cut at different places."""

from __future__ import annotations

import random

WORDS = (
    "the river ran past an old mill where people from every town came to trade grain wool and "
    "stories while children counted boats and asked how far the water would go before it met the "
    "sea and nobody knew except a woman who had once walked along the bank for nine days with only "
    "bread and a map drawn by her father who was a teacher of numbers and names"
).split()


def prompt_lengths(count: int = 32, longest: int = 2000) -> list[int]:
    """Log-uniform, with both ends."""
    return [round(longest ** (i / (count - 1))) for i in range(count)]


def make_prompts(encode: object, count: int = 32, longest: int = 2000) -> list[tuple[int, ...]]:
    """Token ids; every fourth prompt begins like the one before it."""
    rng = random.Random(20261121)
    prompts: list[tuple[int, ...]] = []
    for i, length in enumerate(prompt_lengths(count, longest)):
        text = " ".join(rng.choice(WORDS) for _ in range(length + 8))
        tokens = encode(text)  # type: ignore[operator]
        if i % 4 == 3:
            tokens = [*prompts[-1][: length // 2], *tokens]
        prompts.append(tuple(tokens[:length]))
    return prompts
