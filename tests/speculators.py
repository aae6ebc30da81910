"""Speculators that know what comes, or do not, for tests."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from tgi_core.contract import Draft, Drafter, DraftSetup, DraftWish, Request


class Prophet:
    """Drafts what will come, with mistakes now and then; satisfies `Speculator` and `Drafter`."""

    name = "prophet"

    def __init__(
        self,
        wanted: Sequence[Request],
        outputs: Mapping[str, Sequence[int]],
        seed: int = 0,
        *,
        mistakes: float = 0.15,
    ) -> None:
        self.texts = {r.request_id: [*r.prompt, *outputs[r.request_id]] for r in wanted}
        self.rng = random.Random(seed)
        self.mistakes = mistakes
        self.open: set[str] = set()

    def start(self, setup: DraftSetup) -> Drafter:
        self.vocab_size = setup.vocab_size
        return self

    def propose(self, wishes: Sequence[DraftWish]) -> Sequence[Draft]:
        return [self.draft(wish) for wish in wishes]

    def draft(self, wish: DraftWish) -> Draft:
        self.open.add(wish.request_id)
        begin = len(wish.tokens)
        text = self.texts[wish.request_id]
        assert list(wish.tokens) == text[:begin]
        # beyond the end too: nobody may be hurt by a draft that is too long
        tokens = [*text[begin:], 1, 2, 3, 4, 5][: self.rng.randint(0, wish.most + 2)]
        wrong = [self.rng.random() < self.mistakes for _ in tokens]
        return Draft(
            tokens=tuple(
                (t + bad * self.rng.randrange(1, 9)) % self.vocab_size
                for t, bad in zip(tokens, wrong, strict=True)
            ),
            grade=self.rng.randrange(2),
        )

    def forget(self, request_id: str) -> None:
        self.open.discard(request_id)


class Always:
    """Drafts the same tokens at every place."""

    name = "always"

    def __init__(self, *tokens: int) -> None:
        self.tokens = tokens

    def start(self, setup: DraftSetup) -> Drafter:
        return self

    def propose(self, wishes: Sequence[DraftWish]) -> Sequence[Draft]:
        return [Draft(tokens=self.tokens) for _ in wishes]

    def forget(self, request_id: str) -> None:
        pass
