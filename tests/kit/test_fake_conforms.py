"""The fake backend keeps every promise of the contract, in whatever shape."""

from __future__ import annotations

from pathlib import Path

import pytest

from tgi_core.contract import (
    AdapterRows,
    BackendSpec,
    Fork,
    LoadRequest,
    LogitsRows,
    ModelFiles,
    ModelFormat,
    Pooling,
)
from tgi_core.testing import fake
from tgi_core.testing.conformance import BackendConformance
from tgi_core.testing.fake import FakeBackend, FakeShape
from tgi_core.testing.models import write_fake_adapter

SMALL = {
    "vocab_size": 96,
    "cache_tokens": 512,
    "max_sequences": 8,
    "max_rows": 5,
    "max_step_tokens": 80,
    "max_sequence_tokens": 120,
}
SHAPES = {
    "blocks of 16": FakeShape(**SMALL),
    "blocks of 16, forked whole": FakeShape(**SMALL, fork=Fork.BLOCK),
    "no forks": FakeShape(**SMALL, fork=Fork.NONE),
    "no forks and no cuts": FakeShape(**SMALL, fork=Fork.NONE, truncates=False),
    "cells": FakeShape(**{**SMALL, "block_tokens": 1}),
    "slots": FakeShape(**{**SMALL, "block_tokens": 120, "cache_tokens": 960}, fork=Fork.NONE),
    "not mixed": FakeShape(**SMALL, mixed=False),
    "not chunked": FakeShape(**SMALL, chunked=False),
    "neither mixed nor chunked": FakeShape(**SMALL, mixed=False, chunked=False),
    "last logits": FakeShape(**SMALL, logits=LogitsRows.LAST),
    "two steps in flight": FakeShape(**SMALL, steps_in_flight=2),
    "embeds last": FakeShape(**SMALL, embedding_size=8),
    "embeds mean": FakeShape(**SMALL, embedding_size=8, pooling=Pooling.MEAN, mixed=False),
    "embeds first": FakeShape(**SMALL, embedding_size=8, pooling=Pooling.FIRST, chunked=False),
    "only embeds": FakeShape(**SMALL, embedding_size=8, generates=False, chunked=False),
    "one adapter a step": FakeShape(**SMALL, adapters=AdapterRows.STEP),
    "images": FakeShape(**SMALL, images=True),
    "images, not chunked": FakeShape(**SMALL, images=True, chunked=False),
    "with an encoder": FakeShape(**SMALL, decoder_start=5),
    "with an encoder, without forks": FakeShape(**SMALL, decoder_start=5, fork=Fork.NONE),
    "one row": FakeShape(**{**SMALL, "max_rows": 1}),
}


@pytest.fixture(scope="module")
def load_request(tmp_path_factory: pytest.TempPathFactory) -> LoadRequest:
    folder: Path = tmp_path_factory.mktemp("model")
    return LoadRequest(
        model=ModelFiles(reference="fake", path=folder, format=ModelFormat.OTHER),
        options={name: str(value) for name, value in SMALL.items()},
    )


@pytest.fixture(scope="module")
def adapter_folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return [write_fake_adapter(folder / str(seed), seed) for seed in (1, 2)]


PICTURES = [(b"9 vectors of a cat", 9), (b"6 vectors of a dog", 6)]


class TestFake(BackendConformance):
    """As an operator loads it."""

    module = "tgi_core.testing.fake"
    package = "tgi_core.testing.fake"

    @pytest.fixture(scope="class")
    @classmethod
    def adapters(cls, adapter_folders: list[Path]) -> list[Path]:
        return adapter_folders


class TestFakeShapes(BackendConformance):
    """With abilities that no option gives it."""

    module = fake

    @pytest.fixture(scope="class")
    @classmethod
    def adapters(cls, adapter_folders: list[Path]) -> list[Path]:
        return adapter_folders

    @pytest.fixture(scope="class")
    @classmethod
    def images(cls) -> list[tuple[bytes, int]]:
        return PICTURES

    @pytest.fixture(scope="class", params=SHAPES.values(), ids=SHAPES.keys())
    @classmethod
    def spec(cls, request: pytest.FixtureRequest) -> BackendSpec:
        return BackendSpec(
            name="fake",
            contract=(1, 0),
            probe=fake.tgi_backend().probe,
            accepts=fake.tgi_backend().accepts,
            create=lambda: FakeBackend(request.param),
        )
