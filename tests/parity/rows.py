"""Row: the verdict on one thing of TGI."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Verdict(Enum):
    """What became of it."""

    YES = "yes"
    """A client sees no difference, or only the one that the words name."""
    BETTER = "better"
    REFUSED = "refused"
    """Asking for it is an error that names it."""
    NO_MEANING = "no meaning"
    """Accepted where it can be said, and without effect."""


@dataclass(frozen=True, slots=True)
class Row:
    """A verdict, how or why, and tests that would fail if it were untrue."""

    verdict: Verdict
    words: str
    tests: tuple[str, ...]
    """Each is the path of a file from the root, "::" and the name of a test in it."""


Rows = dict[str, Row]
"""Keys hold one name, or several with spaces between them."""


def yes(test: str, words: str = "", *more: str) -> Row:
    return Row(Verdict.YES, words, (test, *more))


def better(test: str, words: str, *more: str) -> Row:
    return Row(Verdict.BETTER, words, (test, *more))


def refused(test: str, words: str) -> Row:
    return Row(Verdict.REFUSED, words, (test,))


def no_meaning(test: str, words: str) -> Row:
    return Row(Verdict.NO_MEANING, words, (test,))


def one_a_name(rows: Rows) -> list[tuple[str, Row]]:
    """A pair for each of the names that a key holds."""
    return [(name, row) for names, row in rows.items() for name in names.split()]
