"""The built-in speculator goes on as the sequence went on before."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from tests.engines import no_progress
from tgi_core.builtin.ngram import NgramSpeculator
from tgi_core.contract import Draft, DraftSetup, DraftWish


def drafts(*texts: Sequence[int], most: int = 4) -> list[Draft]:
    """What is drafted for a sequence that grows from one text to the next."""
    drafter = NgramSpeculator().start(
        DraftSetup(vocab_size=100, num_drafts=most, progress=no_progress)
    )
    return [
        drafter.propose([DraftWish(request_id="a", tokens=list(text), most=most)])[0]
        for text in texts
    ]


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([7], ()),
        ([1, 2, 3], ()),
        ([5, 6, 7, 8, 9, 5], (6, 7, 8, 9)),
        ([1, 2, 3, 4, 9, 2, 3, 5, 9, 1, 2, 3], (4, 9, 2, 3)),  # the longest beginning counts
        ([3, 4, 3, 5, 9, 3], (5, 9, 3, 5)),  # of equal ones the last
        ([1, 2, 1, 2, 1], (2, 1, 2, 1)),  # what reaches the end goes round
        ([4, 4], (4, 4, 4, 4)),
    ],
)
def test_a_draft_is_what_followed_the_same_tokens(
    tokens: list[int], expected: tuple[int, ...]
) -> None:
    assert drafts(tokens)[0].tokens == expected


def test_a_sequence_that_grows_is_drafted_for_as_if_it_were_new() -> None:
    rng = random.Random(1)
    text = [rng.randrange(6) for _ in range(200)]
    lengths = [3]
    while lengths[-1] < 200:
        lengths.append(lengths[-1] + rng.randint(1, 9))
    texts = [text[:n] for n in lengths]
    assert drafts(*texts) == [drafts(some)[0] for some in texts]


def test_the_grade_tells_how_alike_the_two_places_are() -> None:
    beginning = list(range(30))
    grades = [drafts([*beginning, 99, *beginning[5 : 5 + n]])[0].grade for n in (1, 2, 3, 8, 20)]
    assert grades == sorted(grades) and len(set(grades)) == 5


def test_sequences_do_not_see_each_other_and_are_forgotten() -> None:
    drafter = NgramSpeculator().start(
        DraftSetup(vocab_size=100, num_drafts=4, progress=no_progress)
    )

    def draft(request_id: str, *tokens: int) -> tuple[int, ...]:
        return drafter.propose([DraftWish(request_id=request_id, tokens=tokens, most=2)])[0].tokens

    assert draft("a", 1, 2, 3, 1) == (2, 3)
    assert draft("b", 1) == ()
    drafter.forget("a")
    assert draft("a", 1) == ()
    drafter.forget("unknown")
