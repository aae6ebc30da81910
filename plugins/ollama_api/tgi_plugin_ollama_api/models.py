"""What Ollama's routes say of the model that is served.

A server serves one model, whatever a client calls it. What Ollama knows of files, core does not
tell: sizes are 0, and the digest names the model and its revision instead of its bytes.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import msgspec

from tgi_core.contract import ModelCard

API_VERSION = "0.12.0"
"""Of the Ollama whose API this follows: clients refuse older ones."""

_FAR_FUTURE = "9999-12-31T23:59:59Z"


class Version(msgspec.Struct):
    """Answer of /api/version."""

    version: str


class Details(msgspec.Struct):
    """Of what kind it is; nobody knows here."""

    parent_model: str = ""
    format: str = ""
    family: str = ""
    families: list[str] = []
    parameter_size: str = ""
    quantization_level: str = ""


class Listed(msgspec.Struct, kw_only=True):
    """A model in a list."""

    name: str
    model: str
    modified_at: str
    size: int = 0
    digest: str
    details: Details = msgspec.field(default_factory=Details)


class Running(msgspec.Struct, kw_only=True):
    """A model that is loaded."""

    name: str
    model: str
    size: int = 0
    digest: str
    details: Details = msgspec.field(default_factory=Details)
    expires_at: str = _FAR_FUTURE
    size_vram: int = 0
    context_length: int


class Models(msgspec.Struct):
    """Answer of /api/tags and /api/ps."""

    models: list[Listed] | list[Running]


class Shown(msgspec.Struct, kw_only=True):
    """Answer of /api/show."""

    modelfile: str = ""
    parameters: str = ""
    template: str
    details: Details = msgspec.field(default_factory=Details)
    model_info: dict[str, Any]
    capabilities: list[str]
    modified_at: str


def listed(card: ModelCard, since: str) -> Listed:
    """A model for /api/tags."""
    return Listed(name=card.name, model=card.name, modified_at=since, digest=_digest(card))


def running(card: ModelCard) -> Running:
    """A model for /api/ps."""
    return Running(
        name=card.name,
        model=card.name,
        digest=_digest(card),
        context_length=card.max_sequence_tokens,
    )


def shown(card: ModelCard, since: str) -> Shown:
    """A model for /api/show. Clients look for the context's length at the architecture's name."""
    template = card.chat_template or ""
    return Shown(
        template=template,
        model_info={
            "general.architecture": "tgi",
            "general.basename": card.name,
            "tgi.context_length": card.max_sequence_tokens,
        },
        capabilities=_capabilities(card, template),
        modified_at=since,
    )


def _capabilities(card: ModelCard, template: str) -> list[str]:
    found = ["completion"] if card.generates else []
    if card.generates and "tools" in template:
        found.append("tools")
    if card.embedding_size is not None:
        found.append("embedding")
    return found


def _digest(card: ModelCard) -> str:
    return sha256(f"{card.name}@{card.revision}".encode()).hexdigest()
