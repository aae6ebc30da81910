"""Promises of engines whose requests may have adapters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tgi_core.contract import AdapterRef, Engine, Feature, TakesAdapters
from tgi_core.testing.conformance.engine.driver import Driver
from tgi_core.testing.conformance.engine.promises import EnginePromises, need


class EngineAdapterPromises(EnginePromises):
    """A request is served with the adapter that it names, and with nothing of any other one.

    A subclass whose engine holds adapters overrides the fixture `adapters`.
    """

    @pytest.fixture(scope="class")
    @classmethod
    def adapters(cls) -> Sequence[Path]:
        """Two adapters for the model, of which each changes what it says."""
        return ()

    @pytest.fixture
    def held(self, driver: Driver, adapters: Sequence[Path]) -> list[AdapterRef]:
        """The two adapters, which the engine has read."""
        need(driver, Feature.ADAPTER)
        assert len(adapters) == 2, "override the fixture `adapters`: the kit needs two of them"
        held = [AdapterRef.at(f"adapter {i}", path) for i, path in enumerate(adapters)]
        for adapter in held:
            _taking(driver.engine).load_adapter(adapter)
        driver.until(lambda: len(driver.loaded) == len(held))
        assert {answer.adapter for answer in driver.loaded} == set(held)
        assert not any(answer.fault for answer in driver.loaded)
        return held

    def test_adapters_are_taken_if_and_only_if_they_are_claimed(self, driver: Driver) -> None:
        """An engine that claims them has the methods."""
        if Feature.ADAPTER in driver.info.features:
            assert isinstance(driver.engine, TakesAdapters)

    def test_requests_have_their_own_adapters(self, driver: Driver, held: list[AdapterRef]) -> None:
        """Base and both adapters give three answers to one prompt, alone and side by side."""
        prompt = driver.prompt(7, 1)
        wanted = [driver.request(prompt, 10, adapter=adapter) for adapter in (None, *held)]
        alone = [driver.tokens(request) for request in wanted]
        assert len({tuple(answer) for answer in alone}) == 3
        again = [replace(request, request_id=f"b{i}") for i, request in enumerate(wanted)]
        outcomes = driver.run(*again)
        if self.exact:
            assert [outcome.tokens for outcome in outcomes] == alone

    def test_an_adapter_need_not_be_loaded_before(
        self, driver: Driver, held: list[AdapterRef]
    ) -> None:
        """The first request that names it brings it; dropping it harms no later one."""
        prompt = driver.prompt(7, 2)
        before = driver.tokens(driver.request(prompt, 6, adapter=held[0]))
        _taking(driver.engine).drop_adapter(held[0])
        assert driver.tokens(driver.request(prompt, 6, adapter=held[0])) == before

    def test_a_bad_adapter_fails_alone(
        self, driver: Driver, held: list[AdapterRef], tmp_path: Path
    ) -> None:
        """When it is loaded, and when a request names it all the same."""
        (tmp_path / "adapter_config.json").write_text("{")
        bad = AdapterRef.at("bad", tmp_path)
        driver.loaded.clear()
        _taking(driver.engine).load_adapter(bad)
        driver.until(lambda: bool(driver.loaded))
        assert driver.loaded[0].adapter == bad and driver.loaded[0].fault
        failing, good = driver.run(
            driver.request(driver.prompt(5, 3), 4, adapter=bad),
            driver.request(driver.prompt(5, 4), 4, adapter=held[1]),
        )
        assert failing.failed is not None and failing.failed.message
        assert len(good.tokens) == 4

    def test_an_adapter_whose_files_changed_is_refused(
        self, driver: Driver, held: list[AdapterRef]
    ) -> None:
        """What is in memory under its name may be another one."""
        changed = replace(held[0], version="another")
        [outcome] = driver.run(driver.request(driver.prompt(5, 5), 4, adapter=changed))
        assert outcome.failed is not None and "changed" in outcome.failed.message


def _taking(engine: Engine) -> TakesAdapters:
    assert isinstance(engine, TakesAdapters)
    return engine
