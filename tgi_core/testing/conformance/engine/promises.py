"""What all groups of promises of the engine contract share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, cast

import pytest

from tgi_core.contract import BackendKind, BackendSpec, Engine, EngineInfo, Feature, LoadRequest
from tgi_core.testing.conformance.device import ignore_progress
from tgi_core.testing.conformance.engine.driver import Driver
from tgi_core.testing.conformance.promises import PluginUnderTest, require

_LEAST_TOKENS = 64
"""Longest sequence that leaves room for the kit's requests."""


class Started:
    """One engine at a time, so that a test may close it and start another."""

    engine: Engine
    info: EngineInfo

    def __init__(self, promises: type[EnginePromises], spec: BackendSpec, load: LoadRequest):
        self._promises, self._spec, self.load = promises, spec, load
        self.open()

    def open(self) -> None:
        """Makes an engine and starts it."""
        self.engine = self._promises.create_engine(self._spec)
        self.info = self.engine.start(self.load, ignore_progress)
        self._promises.prepare(self.engine)

    def close(self) -> None:
        """Frees the device."""
        self.engine.close()


class EnginePromises(PluginUnderTest):
    """Base of the groups.

    Good sizes in `load_request` are 4 to 8 rows, and sequences of 128 tokens.
    """

    exact: ClassVar[bool] = True
    """Whether greedy tokens are the same in any company. Many devices round otherwise in another
    batch; then the tests that need it are skipped."""

    @classmethod
    def create_engine(cls, spec: BackendSpec) -> Engine:
        """A new engine; override it if the backend under test is none by itself."""
        if spec.kind is not BackendKind.ENGINE:
            pytest.fail("this backend is no Engine: inherit from BackendConformance")
        return cast("Engine", spec.create())

    @classmethod
    def prepare(cls, engine: Engine) -> None:
        """Tells a started engine what else it must know, such as the bytes of the vocabulary."""

    @pytest.fixture(scope="class")
    @classmethod
    def started(cls, spec: BackendSpec, load_request: LoadRequest) -> Iterator[Started]:
        """The engine, started once for the class."""
        started = Started(cls, spec, load_request)
        if started.info.max_sequence_tokens < _LEAST_TOKENS or started.info.max_requests < 2:
            pytest.fail(f"the kit needs two sequences of {_LEAST_TOKENS} tokens: {started.info}")
        yield started
        started.close()

    @pytest.fixture
    def driver(self, started: Started) -> Iterator[Driver]:
        """Drives the engine; it has nothing to do before and after."""
        driver = Driver(started.engine, started.info)
        yield driver
        driver.clear()
        driver.drain()


def need(driver: Driver, feature: Feature) -> None:
    """Skips the test if the engine does not claim the feature."""
    require(feature in driver.info.features, f"info.features holds no {feature.name}")
