"""Sampling as data: the wishes of a request, and the arrays that tell a sampler what to do.

`tgi_core.sampling.reference` defines the result in numpy; a device sampler must match it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int32]
FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How a request wants its tokens chosen. The defaults are neutral and greedy."""

    temperature: float = 0.0
    """0 chooses the most probable token; otherwise logits are divided by it."""
    top_k: int = 0
    """Keeps the k most probable tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keeps the smallest set of most probable tokens whose mass reaches this; 1 keeps all."""
    typical_p: float = 1.0
    """Keeps the smallest set of tokens of most typical surprise whose mass reaches this
    (Meister et al., https://arxiv.org/abs/2202.00666); 1 keeps all."""
    min_p: float = 0.0
    """Keeps tokens at least this probable relative to the most probable one; 0 keeps all."""
    repetition_penalty: float = 1.0
    """Positive logits of tokens in prompt or output are divided by it, negative ones multiplied
    (Keskar et al., https://arxiv.org/abs/1909.05858)."""
    frequency_penalty: float = 0.0
    """Subtracted from a token's logit once for each time that the output holds it."""
    presence_penalty: float = 0.0
    """Subtracted once from the logit of each token that the output holds."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(token, what is added to its logit)."""
    adjustments: tuple[str, ...] = ()
    """Names of plugins' adjustments, such as "watermark"."""
    seed: int = 0
    """Together with a token's position in the output this fixes the draw."""
    logprobs: bool = False
    """The log-probability of each token is wanted."""
    num_top: int = 0
    """How many of the most probable tokens are wanted with each token."""

    @property
    def greedy(self) -> bool:
        """Whether the most probable token is taken without a draw."""
        return self.temperature == 0.0

    @property
    def penalized(self) -> bool:
        """Whether the choice depends on the tokens so far."""
        return (
            self.repetition_penalty != 1.0
            or self.frequency_penalty != 0.0
            or self.presence_penalty != 0.0
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SamplingBatch:
    """What to do with L rows of logits. Lists of lists are flat, with L + 1 `begins`."""

    temperature: FloatArray
    """float32 (L,); 0 is greedy."""
    top_k: IntArray
    """int32 (L,); 0 is off."""
    top_p: FloatArray
    """float32 (L,); 1 is off."""
    typical_p: FloatArray
    """float32 (L,); 1 is off."""
    min_p: FloatArray
    """float32 (L,); 0 is off."""
    repetition_penalty: FloatArray
    """float32 (L,); 1 is off."""
    frequency_penalty: FloatArray
    """float32 (L,); 0 is off."""
    presence_penalty: FloatArray
    """float32 (L,); 0 is off."""
    uniform: NDArray[np.float64]
    """float64 (L,) in [0, 1): one draw a row, made by core from the request's seed and position."""
    logprobs: NDArray[np.bool_]
    """bool (L,): whether the token's log-probability is wanted."""
    num_top: IntArray
    """int32 (L,): how many top log-probabilities are wanted."""
    forced: IntArray
    """int32 (L,): -1 chooses a token; another value takes that one, to learn its probability."""
    history_begins: IntArray
    """int32 (L + 1,)."""
    history_tokens: IntArray
    """int32 (H,): distinct tokens of prompt and output, of the rows with penalties only."""
    history_counts: IntArray
    """int32 (H,): how often each occurs in the output; 0 if in the prompt only."""
    bias_begins: IntArray
    """int32 (L + 1,)."""
    bias_tokens: IntArray
    """int32 (B,)."""
    bias_values: FloatArray
    """float32 (B,), added to the logits."""
    mask_rows: IntArray
    """int32 (M,), ascending: the rows that have a mask."""
    mask: IntArray
    """int32 (M, ceil(vocab / 32)): bit t % 32 of word t // 32 allows token t."""
    boost_rows: IntArray = field(default_factory=lambda: np.zeros(0, np.int32))
    """int32 (G,), ascending: rows in which a set of tokens gets the same bias. A row may occur more
    than once."""
    boost: IntArray = field(default_factory=lambda: np.zeros((0, 0), np.int32))
    """int32 (G, ceil(vocab / 32)): bit t % 32 of word t // 32 says that token t is in the set."""
    boost_values: FloatArray = field(default_factory=lambda: np.zeros(0, np.float32))
    """float32 (G,): what is added to the logits of the set; -inf forbids it."""

    @property
    def num_rows(self) -> int:
        """L."""
        return len(self.temperature)
