"""A chat template that the operator chose instead of the model's. Renders nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tgi_core.errors import UsageError


@dataclass(frozen=True, slots=True)
class OwnTemplate:
    """What a file says of conversations."""

    source: str
    bos_token: str | None = None
    eos_token: str | None = None
    """None if the file names none: then the model's."""


def read_own_template(file: Path) -> OwnTemplate:
    """Reads a tokenizer_config.json, or any other file as the template itself.

    Raises:
        UsageError: it cannot be read, or holds no template.
    """
    try:
        text = file.read_text(encoding="utf-8")
        config = json.loads(text) if file.suffix == ".json" else {"chat_template": text}
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"the chat template {file} cannot be read: {error}.") from error
    source = template_in(config) if isinstance(config, dict) else None
    if source is None:
        raise UsageError(
            f"{file} holds no chat_template: give a tokenizer_config.json that does, or a file "
            "with the template alone."
        )
    return OwnTemplate(source, token_in(config, "bos_token"), token_in(config, "eos_token"))


def template_in(config: dict[str, Any]) -> str | None:
    """The template of a configuration; of several the one that is called default."""
    template = config.get("chat_template")
    if isinstance(template, list):
        template = next((t.get("template") for t in template if t.get("name") == "default"), None)
    return template if isinstance(template, str) else None


def token_in(config: dict[str, Any], name: str) -> str | None:
    """A special token's text, which may be written as an object that holds it."""
    value = config.get(name)
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None
