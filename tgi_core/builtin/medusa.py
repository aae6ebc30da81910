"""The speculator `medusa`: heads on the model's last hidden state guess the tokens behind the next.

Cai et al., https://arxiv.org/abs/2401.10774, in the form in which TGI takes them: one chain of
tokens, the likeliest of each head. The backend runs the heads; here is what asks it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tgi_core.contract import Draft, Drafter, DraftSetup, DraftWish, HoldsHeads, Speculator
from tgi_core.errors import UnsupportedModel, UsageError
from tgi_core.plugin import hookimpl


class HeadsDrafter:
    """Satisfies `Drafter`."""

    def __init__(self, heads: HoldsHeads) -> None:
        self._heads = heads

    def propose(self, wishes: Sequence[DraftWish]) -> Sequence[Draft]:
        """All wishes come from one step."""
        logits = wishes[0].logits
        if logits is None:
            return [Draft() for _ in wishes]
        outputs = np.array([wish.output for wish in wishes], np.int32)
        guesses = self._heads.guess(logits, outputs).tolist()
        return [
            Draft(tokens=tuple(guess[: wish.most]))
            for guess, wish in zip(guesses, wishes, strict=True)
        ]

    def forget(self, request_id: str) -> None:
        """Nothing is kept of a request."""


class MedusaSpeculator:
    """Satisfies `Speculator`."""

    name = "medusa"

    def start(self, setup: DraftSetup) -> Drafter:
        """Has the backend load the heads.

        Raises:
            SetupError: there are none, they do not fit the model, or this backend runs none.
        """
        if setup.load is None:
            raise UsageError(
                "--speculator medusa needs heads: name their folder with --draft-model, or as the "
                "model itself."
            )
        if setup.heads is None:
            raise UnsupportedModel(
                f"this backend does not run the heads of {setup.load.model.reference}: choose "
                "--backend torch, or --speculator ngram, which needs none."
            )
        setup.heads.load_heads(setup.load.model.path)
        return HeadsDrafter(setup.heads)


@hookimpl
def tgi_speculators() -> Sequence[Speculator]:
    """The speculator for Medusa heads."""
    return (MedusaSpeculator(),)
