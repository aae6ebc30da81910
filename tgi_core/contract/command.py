"""Commands: what plugins add to `tgi` on the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from tgi_core.contract.tokenizer import Tokenizer


class CommandTools(Protocol):
    """What core lends a command."""

    def load_tokenizer(self, reference: str) -> Tokenizer:
        """The tokenizer of a model, given as to `tgi serve`.

        Raises:
            ModelNotFound: the reference leads nowhere.
            BadModel: it has no tokenizer that can be read.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """`tgi NAME ...`, what a plugin offers with the hook `tgi_commands`."""

    name: str
    contract: tuple[int, int]
    """The version of the contract that it was written for."""
    summary: str
    """A few words for `tgi --help`."""
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace, CommandTools], int]
    """Returns the exit status. Errors of `tgi_core.errors` become a line and theirs."""
