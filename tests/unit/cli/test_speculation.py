"""What is served and what drafts for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tgi_core.builtin import local_source
from tgi_core.cli.speculation import Served, check_vocabularies, find_models
from tgi_core.config.settings import OPTIONS, Settings
from tgi_core.config.sources import build, choose
from tgi_core.errors import BadModel, ModelNotFound, UnsupportedModel, UsageError
from tgi_core.plugin.manager import Plugins


def folder(path: Path, **config: Any) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    (path / "model.safetensors").write_bytes(b"")
    return path


def found(model: Path, **flags: Any) -> Served:
    settings: Settings = build(OPTIONS, choose(OPTIONS, {"model": str(model), **flags}, {}))
    return find_models(settings, Plugins(builtins=[local_source]))


def test_nothing_drafts_unless_it_is_wished_for(tmp_path: Path) -> None:
    served = found(folder(tmp_path / "model"))
    assert (served.num_drafts, served.draft_model) == (0, None)
    served = found(tmp_path / "model", speculate="3")
    assert (served.num_drafts, served.speculator) == (3, "ngram")
    assert not served.drafts_by_model


def test_a_draft_model_drafts_five_tokens(tmp_path: Path) -> None:
    model, small = folder(tmp_path / "model"), folder(tmp_path / "small")
    served = found(model, **{"draft-model": str(small)})
    assert (served.num_drafts, served.speculator, served.drafts_by_model) == (5, "draft", True)
    assert served.draft_model is not None and served.draft_model.path == small
    with pytest.raises(ModelNotFound):
        found(model, **{"draft-model": str(tmp_path / "nothing")})


def test_heads_draft_for_a_model_that_is_served_with_them(tmp_path: Path) -> None:
    model, heads = folder(tmp_path / "model"), folder(tmp_path / "heads", medusa_num_heads=4)
    served = found(model, **{"draft-model": str(heads)})
    assert (served.speculator, served.model.path) == ("medusa", model)


def test_heads_that_are_served_name_their_model(tmp_path: Path) -> None:
    model = folder(tmp_path / "model")
    heads = folder(tmp_path / "heads", medusa_num_heads=4, base_model_name_or_path=str(model))
    served = found(heads)
    assert served.model.path == model and served.speculator == "medusa"
    assert served.draft_model is not None and served.draft_model.path == heads
    with pytest.raises(UsageError, match="--draft-model has to be left out"):
        found(heads, **{"draft-model": str(model)})
    with pytest.raises(BadModel, match="does not say which model"):
        found(folder(tmp_path / "lost", medusa_num_heads=4))


class Words:
    def __init__(self, *words: bytes) -> None:
        self.words = words

    def vocabulary(self) -> tuple[bytes, ...]:
        return self.words


def test_a_draft_model_of_another_vocabulary_is_refused_with_the_token() -> None:
    ours = Words(b"a", b"b", b"c")
    check_vocabularies("m", ours, "d", Words(b"a", b"b", b"c", b""))  # type: ignore[arg-type]
    with pytest.raises(UnsupportedModel, match="first in token 1"):
        check_vocabularies("m", ours, "d", Words(b"a", b"x"))  # type: ignore[arg-type]
