"""Speculation: guesses at the next tokens, which the model checks in one step instead of several.

Drafts change the speed and never the output. Core samples each place by the draw that it would use
without drafts, and a draft counts only if it is the token that was sampled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from tgi_core.contract.batch import IntArray
from tgi_core.contract.result import PendingLogits
from tgi_core.contract.step import StepBackend

if TYPE_CHECKING:
    from tgi_core.contract.backend import LoadRequest, Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A guess at what comes next in one sequence."""

    tokens: tuple[int, ...] = ()
    """In order; empty if there is no guess."""
    grade: int = 0
    """A small number for how much speaks for the guess: more for a higher one. Core learns for each
    grade by itself how often its tokens are right, and has no more of them computed than pays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftWish:
    """A sequence that a draft is wanted for."""

    request_id: str
    tokens: Sequence[int]
    """Prompt and output so far, at least one; not to be changed. Since the last wish for this
    request tokens were added at the end, and none was changed."""
    most: int
    """Longest draft that is of use, at least 1."""
    logits: PendingLogits | None = None
    """What the step returned that the last token was sampled from; for `HoldsHeads.guess`."""
    output: int = 0
    """Index of the last token's place in that step's outputs."""


class Drafter(Protocol):
    """Guesses for the sequences of one engine. All calls come from one thread, between steps."""

    def propose(self, wishes: Sequence[DraftWish]) -> Sequence[Draft]:
        """A draft for each wish, in order.

        An error ends speculation and nothing else.
        """
        ...

    def forget(self, request_id: str) -> None:
        """A request has ended; an unknown one is no error."""
        ...


@runtime_checkable
class HoldsHeads(Protocol):
    """A backend that runs drafting heads: small layers that guess from the model's hidden state.

    Head i guesses the token i + 2 places behind the one whose state it is, for the model itself
    says what stands 1 place behind (Medusa, https://arxiv.org/abs/2401.10774).
    """

    def load_heads(self, path: Path) -> int:
        """Reads a folder of heads, after `load` and before the first step.

        Returns:
            How many there are.

        Raises:
            SetupError: BadModel or UnsupportedModel: they are damaged, or of another model.
        """
        ...

    def guess(self, logits: PendingLogits, outputs: IntArray) -> IntArray:
        """What all heads guess at some places.

        Args:
            logits: what one of the last two steps returned.
            outputs: int32 (K,), indices into that step's outputs.

        Returns:
            int32 (K, heads): the likeliest token of each head.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftSetup:
    """What a speculator is told when the model has been loaded."""

    vocab_size: int
    """The model's, padding included."""
    num_drafts: int
    """Longest draft that will be asked for."""
    load: LoadRequest | None = None
    """The model that drafts, or the heads, if `--draft-model` names some: as the other one is
    loaded, and with as many rows and tokens in its cache."""
    create: Callable[[], StepBackend] | None = None
    """Makes another backend of the kind that holds the model."""
    heads: HoldsHeads | None = None
    """The backend that holds the model, if it can run heads."""
    progress: Progress
    """Shows how far loading has come."""


class Speculator(Protocol):
    """What a plugin offers with the hook `tgi_speculators`. Making one must be cheap."""

    name: str
    """What `--speculator` names."""

    def start(self, setup: DraftSetup) -> Drafter:
        """Called once, before the first step.

        Raises:
            SetupError: it cannot draft for this model; says what to do.
        """
        ...
