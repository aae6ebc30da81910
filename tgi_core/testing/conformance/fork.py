"""Promises about `fork`: a copy of a beginning that nobody else can change."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tgi_core.testing.conformance.comparison import Comparison
from tgi_core.testing.conformance.promises import Promises, require, require_fillable
from tgi_core.testing.conformance.runner import Logits, Runner


class ForkPromises(Promises):
    """Source and fork hold the same beginning, and never see what the other does."""

    def test_fork_is_exact_at_every_length(self, runner: Runner, compare: Comparison) -> None:
        """A fork holds the first `length` tokens of its source, no fewer and no more."""
        prompt, tail = runner.prompt(2 * runner.unit + 2, 1), runner.prompt(3, 2)
        lengths = _lengths(runner, len(prompt))
        untouched = runner.continuations(prompt, tail)
        wants = {length: runner.continuations(prompt[:length], tail) for length in lengths}
        src = runner.new()
        runner.feed(src, prompt)
        for length in lengths:
            dst = runner.new()
            assert runner.fork(src, dst, length), "refused although there is room"
            compare.same(runner.decode(dst, tail), wants[length], f"fork at {length}")
            runner.release(dst)
        compare.same(runner.decode(src, tail), untouched, "the source, after all its forks")

    @pytest.mark.parametrize("first", ["source", "fork"])
    def test_source_and_fork_go_on_independently(
        self, runner: Runner, compare: Comparison, first: str
    ) -> None:
        """Whoever writes first, and then by turns: each sees its own tokens only."""
        src, dst, want_src, want_dst, src_tail, dst_tail = _pair(runner)
        order = [(src, src_tail, want_src), (dst, dst_tail, want_dst)]
        if first == "fork":
            order.reverse()
        for turn in range(len(src_tail)):
            for seq, tail, want in order:
                got = runner.decode(seq, tail[turn : turn + 1])
                compare.same(got, want[turn : turn + 1], f"{first} first, turn {turn}")

    @pytest.mark.parametrize(
        "meanwhile",
        [
            pytest.param(lambda runner, src: runner.release(src), id="released"),
            pytest.param(lambda runner, src: runner.truncate(src, 1), id="truncated"),
            pytest.param(lambda runner, src: _rewrite(runner, src), id="rewritten"),
        ],
    )
    def test_fork_outlives_its_source(
        self, runner: Runner, compare: Comparison, meanwhile: Callable[[Runner, int], None]
    ) -> None:
        """A source may end or change; the fork goes on, though others take the room."""
        src, dst, _, want, _, tail = _pair(runner)
        meanwhile(runner, src)
        runner.feed(runner.new(), runner.prompt(2 * runner.unit, 7))
        compare.same(runner.decode(dst, tail), want, "the fork")

    @pytest.mark.parametrize(
        "meanwhile",
        [
            pytest.param(lambda runner, dst: runner.release(dst), id="released"),
            pytest.param(lambda runner, dst: _rewrite(runner, dst), id="truncated-and-rewritten"),
        ],
    )
    def test_source_outlives_its_fork(
        self, runner: Runner, compare: Comparison, meanwhile: Callable[[Runner, int], None]
    ) -> None:
        """A fork may end, or write over what it shares; the source goes on."""
        src, dst, want, _, tail, _ = _pair(runner)
        meanwhile(runner, dst)
        runner.feed(runner.new(), runner.prompt(2 * runner.unit, 7))
        compare.same(runner.decode(src, tail), want, "the source")

    def test_fork_of_a_fork_is_exact(self, runner: Runner, compare: Comparison) -> None:
        """Three generations write by turns, after the one in the middle has grown."""
        prompt = runner.prompt(2 * runner.unit + 3, 1)
        length = _lengths(runner, len(prompt))[-1]
        tails = [runner.prompt(runner.unit + 3, seed) for seed in (2, 3, 4)]
        grown = [*prompt[:length], *tails[1]]
        shorter = runner.fork_lengths(len(grown))[-1]
        wants = [
            runner.continuations(prompt, tails[0][:3]),
            runner.continuations(grown, tails[1][:3]),
            runner.continuations(grown[:shorter], tails[2][:3]),
        ]
        seqs = [runner.new() for _ in tails]
        runner.feed(seqs[0], prompt)
        assert runner.fork(seqs[0], seqs[1], length)
        runner.feed(seqs[1], tails[1])
        assert runner.fork(seqs[1], seqs[2], shorter)
        for turn in range(3):
            for generation in (1, 2, 0):
                got = runner.decode(seqs[generation], [tails[generation][turn]])
                compare.same(got, wants[generation][turn : turn + 1], f"generation {generation}")

    def test_several_forks_of_one_source_stay_apart(
        self, runner: Runner, compare: Comparison
    ) -> None:
        """As when one request wants several answers: all start alike and go different ways."""
        prompt = runner.prompt(runner.unit + runner.unit // 2, 1)
        length = _lengths(runner, len(prompt))[-1]
        tails = [runner.prompt(3, seed) for seed in (2, 3, 4)]
        wants = [runner.continuations(prompt[:length], tail) for tail in tails]
        src = runner.new()
        runner.feed(src, prompt)
        runner.truncate(src, length)
        forks = [runner.new() for _ in tails[1:]]
        for dst in forks:
            assert runner.fork(src, dst, length)
        for turn in range(3):
            for seq, tail, want in zip((src, *forks), tails, wants, strict=True):
                compare.same(runner.decode(seq, [tail[turn]]), want[turn : turn + 1])

    def test_fork_in_a_full_cache_is_refused_or_right(
        self, runner: Runner, compare: Comparison
    ) -> None:
        """False changes nothing; True is a promise that holds as soon as there is room again."""
        prompt, tail = runner.prompt(runner.unit + 3, 1), runner.prompt(3, 2)
        length = _lengths(runner, len(prompt))[-1]
        wants = {held: runner.continuations(prompt[:held], tail) for held in (length, len(prompt))}
        src, dst = runner.new(), runner.new()
        runner.feed(src, prompt)
        require_fillable(runner)
        filled = runner.fill(but=(dst,))
        granted = runner.fork(src, dst, length)
        runner.release(*filled)
        if granted:
            compare.same(runner.decode(dst, tail), wants[length], "the fork")
        compare.same(runner.decode(src, tail), wants[len(prompt)], "the source")


def _lengths(runner: Runner, longest: int) -> list[int]:
    lengths = runner.fork_lengths(longest)
    require(bool(lengths), f"capabilities.fork is {runner.capabilities.fork.name}")
    return lengths


def _pair(runner: Runner) -> tuple[int, int, Logits, Logits, list[int], list[int]]:
    """A source and its fork, the logits that each must give, and the tokens to go on with.

    The fork is one token shorter where that can be, so that both go on at different places of
    the same block.
    """
    prompt = runner.prompt(2 * runner.unit + 3, 1)
    length = _lengths(runner, len(prompt) - 1)[-1]
    src_tail, dst_tail = runner.prompt(runner.unit, 2), runner.prompt(runner.unit, 3)
    want_src = runner.continuations(prompt, src_tail)
    want_dst = runner.continuations(prompt[:length], dst_tail)
    src, dst = runner.new(), runner.new()
    runner.feed(src, prompt)
    assert runner.fork(src, dst, length), "refused although there is room"
    return src, dst, want_src, want_dst, src_tail, dst_tail


def _rewrite(runner: Runner, seq: int) -> None:
    runner.truncate(seq, runner.unit // 2)
    runner.feed(seq, runner.prompt(runner.unit + 5, 8))
