"""What is served and what drafts for it, from the settings. Knows no engine."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tgi_core.config.settings import Settings
from tgi_core.contract import ModelFiles, Tokenizer
from tgi_core.errors import BadModel, UnsupportedModel, UsageError
from tgi_core.plugin.manager import Plugins

_NUM_DRAFTS = 5
"""Longest drafts of a model that drafts, if nobody says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """The models of a server."""

    model: ModelFiles
    draft_model: ModelFiles | None
    """Another model, or Medusa heads."""
    speculator: str
    num_drafts: int

    @property
    def drafts_by_model(self) -> bool:
        """Whether another model drafts, which must have the same vocabulary."""
        return self.draft_model is not None and self.speculator == "draft"


def find_models(settings: Settings, plugins: Plugins) -> Served:
    """Fetches what is to be served; as in TGI, Medusa heads name their model themselves.

    Raises:
        SetupError: a reference leads nowhere, or two of them contradict each other.
    """
    wish = settings.speculation
    model = plugins.model_source(settings.model.reference, settings.model.revision)
    draft_model = plugins.model_source(wish.draft_model) if wish.draft_model is not None else None
    base = _base_of_heads(model)
    if base is not None:
        if draft_model is not None:
            raise UsageError(
                f"{settings.model.reference} holds Medusa heads, so --draft-model has to be left "
                "out; or name the model itself as what is served."
            )
        if not base:
            raise BadModel(
                f"{settings.model.reference} does not say which model its heads are for: serve "
                "that model, and name the heads with --draft-model."
            )
        model, draft_model = plugins.model_source(base), model
    usual = "ngram"
    if draft_model is not None:
        usual = "draft" if _base_of_heads(draft_model) is None else "medusa"
    num_drafts = wish.num_drafts
    if num_drafts is None:
        num_drafts = 0 if draft_model is None else _NUM_DRAFTS
    return Served(
        model=model,
        draft_model=draft_model,
        speculator=wish.speculator or usual,
        num_drafts=num_drafts,
    )


def check_vocabularies(model: str, tokenizer: Tokenizer, drafting: str, other: Tokenizer) -> None:
    """Refuses a draft model whose tokens mean something else. Padding may differ.

    Raises:
        UnsupportedModel: naming the first token that differs.
    """
    for token, (ours, theirs) in enumerate(
        zip(tokenizer.vocabulary(), other.vocabulary(), strict=False)
    ):
        if ours != theirs:
            raise UnsupportedModel(
                f"{drafting} cannot draft for {model}: their vocabularies differ, first in token "
                f"{token} ({ours!r} and {theirs!r}). Take a model of the same family."
            )


def _base_of_heads(files: ModelFiles) -> str | None:
    """The model that a folder of Medusa heads is made for; None if it is no such folder."""
    path: Path = files.path / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(config, dict) or "medusa_num_heads" not in config:
        return None
    base = config.get("base_model_name_or_path")
    return base if isinstance(base, str) else ""
