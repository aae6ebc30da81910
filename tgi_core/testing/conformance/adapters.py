"""Promises of backends that hold adapters: each row has its own, and the base model none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from tgi_core.contract import AdapterRows, HoldsAdapters
from tgi_core.errors import BadAdapter
from tgi_core.testing.conformance.comparison import Comparison
from tgi_core.testing.conformance.promises import Promises, require
from tgi_core.testing.conformance.runner import Logits, Row, Runner


class AdapterPromises(Promises):
    """A row is computed with the adapter that it names, and with nothing of any other one.

    A subclass whose backend holds adapters overrides the fixture `adapters`.
    """

    @pytest.fixture(scope="class")
    @classmethod
    def adapters(cls) -> Sequence[Path]:
        """Two adapters for the model, of which each changes every token's logits."""
        return ()

    @pytest.fixture
    def bank(self, runner: Runner, request: pytest.FixtureRequest) -> Iterator[HoldsAdapters]:
        """The backend, with the two adapters at the places 1 and 2."""
        claim = runner.capabilities.adapters
        require(claim is not AdapterRows.NONE, "capabilities.adapters is NONE")
        assert isinstance(runner.backend, HoldsAdapters)
        adapters: Sequence[Path] = request.getfixturevalue("adapters")
        assert len(adapters) == 2, "override the fixture `adapters`: the kit needs two of them"
        bank = cast(HoldsAdapters, runner.backend)
        for place, path in enumerate(adapters, 1):
            bank.set_adapter(place, bank.read_adapter(path))
        yield bank
        for place in (1, 2):
            bank.set_adapter(place, None)

    def test_adapters_are_held_if_and_only_if_they_are_claimed(self, runner: Runner) -> None:
        """The capability and the methods come together."""
        claimed = runner.capabilities.adapters is not AdapterRows.NONE
        assert claimed == isinstance(runner.backend, HoldsAdapters)

    def test_adapter_changes_the_logits(self, runner: Runner, bank: HoldsAdapters) -> None:
        """Base and both adapters give three different answers to one prompt."""
        prompt = runner.prompt(runner.unit + 2, 1)
        answers = [_alone(runner, prompt, place) for place in (0, 1, 2)]
        for one, other in ((0, 1), (0, 2), (1, 2)):
            assert not np.array_equal(answers[one], answers[other]), f"{one} and {other} are alike"

    def test_base_rows_are_the_base_models(
        self,
        runner: Runner,
        bank: HoldsAdapters,
        adapters: Sequence[Path],
        compare: Comparison,
    ) -> None:
        """With adapters held, beside rows that have them, and after they are gone.

        To the bit, but beside such rows: there a device may compute all rows by other kernels.
        """
        prompt = runner.prompt(runner.unit + 1, 1)
        for place in (1, 2):
            bank.set_adapter(place, None)
        before = runner.alone(prompt)
        for place, path in enumerate(adapters, 1):
            bank.set_adapter(place, bank.read_adapter(path))
        assert np.array_equal(runner.alone(prompt), before), "adapters are held"
        if runner.capabilities.adapters is AdapterRows.ROW and runner.capabilities.max_rows > 1:
            plain, mixed = (_beside(runner, prompt, place) for place in (0, 1))
            compare.same(mixed, plain, "a neighbour has an adapter")
        for place in (1, 2):
            bank.set_adapter(place, None)
        assert np.array_equal(runner.alone(prompt), before), "adapters are gone"

    def test_rows_of_several_adapters_equal_each_alone(
        self, runner: Runner, bank: HoldsAdapters, compare: Comparison
    ) -> None:
        """Base and two adapters in one step, in every order, prefilled and decoded."""
        require(runner.capabilities.adapters is AdapterRows.ROW, "capabilities.adapters is STEP")
        require(runner.capabilities.max_rows >= 3, "capabilities.max_rows is less than 3")
        prompts = [runner.prompt(n, n) for n in (runner.unit + 2, 3, runner.unit - 1)]
        tails = [runner.prompt(1, seed) for seed in range(3)]
        for places in ((0, 1, 2), (2, 0, 1), (1, 1, 2), (2, 2, 2)):
            seqs = [runner.new() for _ in prompts]
            for turn in (prompts, tails):
                rows = [
                    Row(seq, tokens, adapter=place)
                    for seq, tokens, place in zip(seqs, turn, places, strict=True)
                ]
                got = runner.step(*rows)
                for seq, logits, place in zip(seqs, got, places, strict=True):
                    want = _alone(runner, runner.held[seq], place)
                    compare.same(logits[0], want, f"places {places}, adapter {place}")
            runner.release(*seqs)

    def test_chunks_and_decoding_with_an_adapter_equal_the_whole(
        self, runner: Runner, bank: HoldsAdapters, compare: Comparison
    ) -> None:
        """Keys and values of each piece are the adapter's."""
        prompt = runner.prompt(2 * runner.unit + 3, 1)
        want = _alone(runner, prompt, 1)
        seq = runner.new()
        sizes = (runner.unit, 1, 1) if runner.capabilities.chunked else (2 * runner.unit, 1, 1)
        logits = None
        rest = list(prompt)
        while rest:
            size = sizes[0] if len(rest) == len(prompt) else 1
            logits = runner.last(Row(seq, rest[:size], adapter=1))
            rest = rest[size:]
        assert logits is not None
        compare.same(logits, want)

    def test_place_is_the_new_adapters_alone(
        self, runner: Runner, bank: HoldsAdapters, compare: Comparison, adapters: Sequence[Path]
    ) -> None:
        """A place that is used again shows nothing of the adapter before."""
        prompt = runner.prompt(runner.unit, 1)
        want = _alone(runner, prompt, 2)
        bank.set_adapter(1, bank.read_adapter(adapters[1]))
        compare.same(_alone(runner, prompt, 1), want, "replaced")
        bank.set_adapter(1, None)
        bank.set_adapter(1, bank.read_adapter(adapters[1]))
        compare.same(_alone(runner, prompt, 1), want, "emptied between")

    def test_bad_adapter_is_refused_and_changes_nothing(
        self, runner: Runner, bank: HoldsAdapters, tmp_path: Path
    ) -> None:
        """No folder, an empty one, and one whose files are noise."""
        prompt = runner.prompt(runner.unit, 1)
        before = [_alone(runner, prompt, place) for place in (0, 1)]
        noise = tmp_path / "noise"
        noise.mkdir()
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            (noise / name).write_bytes(bytes(range(256)))
        empty = tmp_path / "empty"
        empty.mkdir()
        for path in (tmp_path / "nothing", empty, noise):
            with pytest.raises(BadAdapter):
                bank.read_adapter(path)
        for place, logits in enumerate(before):
            assert np.array_equal(_alone(runner, prompt, place), logits)


def _alone(runner: Runner, tokens: Sequence[int], place: int) -> Logits:
    """float32 (vocab,): after these tokens, from a fresh sequence with one adapter."""
    seq = runner.new()
    logits = runner.last(Row(seq, tokens, adapter=place))
    runner.release(seq)
    return logits


def _beside(runner: Runner, tokens: Sequence[int], place: int) -> Logits:
    """float32 (vocab,): the base model's, in a step with a row that has an adapter or not."""
    seqs = runner.new(), runner.new()
    rows = [Row(seqs[0], tokens), Row(seqs[1], runner.prompt(runner.unit, 9), adapter=place)]
    logits = runner.step(*rows)[0][0]
    runner.release(*seqs)
    return np.asarray(logits)
