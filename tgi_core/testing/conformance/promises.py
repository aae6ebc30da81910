"""What groups of promises share: what the backend's author gives, and the fixtures."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from typing import ClassVar, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from tgi_core.contract import BackendKind, BackendSpec, LoadRequest, LogitsRows, PluginModule
from tgi_core.testing.conformance.comparison import Comparison
from tgi_core.testing.conformance.device import Device, too_small
from tgi_core.testing.conformance.runner import Runner


class PluginUnderTest:
    """What a plugin of either contract is tested by.

    A subclass sets `module` and offers a class-scoped fixture `load_request` (in the class, in
    its file or in a conftest.py): a small model and small limits.
    """

    module: ClassVar[str | PluginModule]
    """The plugin module, by name (then its imports are checked too) or as an object."""
    package: ClassVar[str | None] = None
    """The package whose imports are checked; by default the outermost one of `module`."""

    @pytest.fixture(scope="class")
    @classmethod
    def spec(cls) -> BackendSpec:
        """What the plugin's hook returns."""
        if isinstance(cls.module, str):
            return cast("PluginModule", importlib.import_module(cls.module)).tgi_backend()
        return cls.module.tgi_backend()


class Promises(PluginUnderTest):
    """Base of the groups for the step contract.

    Good sizes in `load_request` are at least 4 rows, 4 to 8 sequences of 128 tokens, 64 to 128
    tokens a step, a cache of 512 tokens. The cache should be smaller than all sequences at their
    longest, or it can never be full.
    """

    atol: ClassVar[float] = 2e-4
    """How far logits may lie apart; the default suits float32. Unused if batch_invariant."""
    rtol: ClassVar[float] = 1e-3
    """The same, relative to their size."""

    def reference_logits(self, tokens: Sequence[int]) -> NDArray[np.float32] | None:
        """Logits of the same model from elsewhere, float32 (len(tokens), vocab); None for none.

        Row i follows tokens[: i + 1]. Override it to compare with another implementation, or
        with numbers stored on disk: the tokens are the same in every run.
        """
        return None

    def reference_embedding(self, tokens: Sequence[int]) -> NDArray[np.float32] | None:
        """The vector of the same model from elsewhere, float32 (size,); None for none.

        Not normalized. Override it like `reference_logits`.
        """
        return None

    @pytest.fixture(scope="class")
    @classmethod
    def device(cls, spec: BackendSpec, load_request: LoadRequest) -> Iterator[Device]:
        """The backend, loaded once for the class."""
        if spec.kind is not BackendKind.STEP:
            pytest.fail("this backend is an Engine: inherit from EngineConformance")
        device = Device(spec, load_request)
        if device.capabilities.logits is LogitsRows.NONE:
            pytest.fail("the kit compares logits, and capabilities.logits is NONE")
        missing = too_small(device.capabilities)
        if missing:
            pytest.fail("load_request is too small for the kit: " + "; ".join(missing))
        yield device
        device.close()

    @pytest.fixture
    def runner(self, device: Device) -> Iterator[Runner]:
        """Drives the backend; starts and ends with an empty cache."""
        require(device.capabilities.generates, "capabilities.generates is False")
        encodes = device.capabilities.encoder is not None
        require(not encodes, "capabilities.encoder is not None: prompts are not the decoder's")
        runner = Runner(device.backend, device.capabilities)
        yield runner
        runner.clear()

    @pytest.fixture
    def embedder(self, device: Device) -> Iterator[Runner]:
        """The same, for what embeds; such a backend need not generate."""
        require(device.capabilities.embedding is not None, "capabilities.embedding is None")
        runner = Runner(device.backend, device.capabilities)
        yield runner
        runner.clear()

    @pytest.fixture
    def compare(self, device: Device) -> Comparison:
        """How closely logits must agree."""
        exact = device.capabilities.batch_invariant
        return Comparison(atol=self.atol, rtol=self.rtol, exact=exact)


def require(holds: bool, reason: str) -> None:
    """Skips the test if the capabilities exclude what it proves; `reason` names them."""
    if not holds:
        pytest.skip(reason)


def require_fillable(runner: Runner) -> None:
    """Skips the test if the cache can never be full."""
    capabilities = runner.capabilities
    longest = capabilities.max_sequences * capabilities.max_sequence_tokens
    reason = "capabilities.cache_tokens suffice for all sequences at their longest"
    require(capabilities.cache_tokens < longest, reason)
