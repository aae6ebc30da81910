"""The kit on whatever `tgi conformance` is asked to examine. Knows no backend by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tgi_core.contract import BackendSpec, LoadRequest
from tgi_core.plugin.manager import Plugins
from tgi_core.testing.conformance import BackendConformance
from tgi_core.testing.tiny_llama import TinyLlama, write_tiny_adapter


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What to examine; a pytest plugin that leaves itself where the tests find it."""

    backend: str
    request: LoadRequest
    reference: TinyLlama | None
    """None for a model that somebody gave: there is no second opinion on it."""

    def pytest_configure(self, config: pytest.Config) -> None:
        """Called by pytest before it looks for tests."""
        config.stash[_SUBJECT] = self


_SUBJECT = pytest.StashKey[Subject]()


class ExaminedBackend(BackendConformance):
    """A subclass sets `module`; the `Subject` gives the rest."""

    subject: Subject

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def meet(cls, pytestconfig: pytest.Config) -> None:
        """Lets the methods below answer."""
        cls.subject = pytestconfig.stash[_SUBJECT]

    @pytest.fixture(scope="class")
    @classmethod
    def spec(cls, meet: None) -> BackendSpec:
        """As core loads it, which checks its name and its contract."""
        return Plugins().load_backend(cls.subject.backend)

    @pytest.fixture(scope="class")
    @classmethod
    def load_request(cls, meet: None) -> LoadRequest:
        """What the command was told."""
        return cls.subject.request

    @pytest.fixture(scope="class")
    @classmethod
    def adapters(cls, meet: None, tmp_path_factory: pytest.TempPathFactory) -> Sequence[Path]:
        """Two for the tiny model; of another one nobody knows any."""
        if cls.subject.reference is None:
            pytest.skip("no adapters of this model are given")
        folder = tmp_path_factory.mktemp("adapters")
        return [write_tiny_adapter(folder / str(seed), seed) for seed in (1, 2)]

    @pytest.fixture(scope="class")
    @classmethod
    def images(cls) -> Sequence[tuple[bytes, int]]:
        """None: what an image's vectors are depends on the model."""
        pytest.skip("no images are given")

    def reference_logits(self, tokens: Sequence[int]) -> NDArray[np.float32] | None:
        """The tiny model's own."""
        reference = self.subject.reference
        return None if reference is None else reference.logits(tokens)

    def reference_embedding(self, tokens: Sequence[int]) -> NDArray[np.float32] | None:
        """The tiny model's own."""
        reference = self.subject.reference
        return None if reference is None else reference.embedding(tokens)
