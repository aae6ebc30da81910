"""Commands that installed plugins add to `tgi`, and what core lends them.

Imported only for a command that core does not have.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from tgi_core.builtin import hub_source, local_source
from tgi_core.contract import Command, Tokenizer
from tgi_core.errors import BadModel
from tgi_core.plugin.manager import Plugins
from tgi_core.text import hf_plugin


class PluginCommands:
    """The commands of all plugins."""

    def __init__(self) -> None:
        """Loads the plugins.

        Raises:
            PluginError: one of them has a fault.
        """
        self._plugins = Plugins(builtins=(hub_source, local_source, hf_plugin))
        self._plugins.load_plugins()
        self.by_name: Mapping[str, Command] = self._plugins.commands()

    def run(self, command: Command, args: argparse.Namespace) -> int:
        """Runs one of them."""
        return command.run(args, self)

    def load_tokenizer(self, reference: str) -> Tokenizer:
        """See `tgi_core.contract.CommandTools`."""
        tokenizer = self._plugins.load_tokenizer(self._plugins.model_source(reference))
        if tokenizer is None:
            raise BadModel(
                f"no installed plugin can read the tokenizer of {reference}: a Hugging Face "
                "folder needs a tokenizer.json, a GGUF file the llamacpp backend's package."
            )
        return tokenizer
