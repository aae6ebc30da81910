"""Promises about time: no state between steps, results that last, loading more than once."""

from __future__ import annotations

import numpy as np

from tgi_core.contract import BackendStats
from tgi_core.testing.conformance.comparison import Comparison
from tgi_core.testing.conformance.device import Device
from tgi_core.testing.conformance.promises import Promises, require
from tgi_core.testing.conformance.runner import Row, Runner


class LifecyclePromises(Promises):
    """Nothing but the cache lasts from one step to the next."""

    def test_equal_steps_give_equal_logits(self, runner: Runner, compare: Comparison) -> None:
        """A step repeated gives the same, whatever was computed in between."""
        prompt, token = runner.prompt(runner.unit + 1, 1), runner.prompt(1, 2)
        seq, other = runner.new(), runner.new()
        runner.feed(seq, prompt)
        want = runner.decode(seq, token)
        for seed in range(3):
            runner.feed(other, runner.prompt(runner.unit - seed, seed))
            runner.shorten(seq, len(prompt))
            compare.same(runner.decode(seq, token), want, "the step repeated")
        runner.shorten(seq, len(prompt))
        compare.same(runner.decode(seq, token), want, "the step repeated at once")

    def test_caller_may_write_to_logits(self, runner: Runner, compare: Comparison) -> None:
        """Core changes logits in place; no later step shows it."""
        prompts = [runner.prompt(n, n) for n in (3, runner.unit + 1)]
        wants = [runner.alone(prompt) for prompt in prompts]
        for _ in range(3):
            for prompt, want in zip(prompts, wants, strict=True):
                row = Row(runner.new(), prompt)
                pending = runner.launch(row)
                compare.same(runner.read(pending, row)[0][0], want)
                pending.numpy()[:] = np.nan
                runner.release(row.seq)

    def test_logits_last_until_the_next_step(self, runner: Runner, compare: Comparison) -> None:
        """Reserving, truncating, forking and releasing in between do not harm them."""
        prompt, longer = runner.prompt(runner.unit + 2, 1), runner.prompt(2 * runner.unit + 1, 2)
        want, want_longer = runner.alone(prompt), runner.alone(longer)
        rows = [Row(runner.new(), longer), Row(runner.new(), prompt)]
        # one by one where a step takes only one row
        together = rows if runner.capabilities.max_rows > 1 else rows[1:]
        pending = runner.launch(*together)
        runner.reserve(runner.new(), 2 * runner.unit)
        for length in runner.fork_lengths(len(prompt))[-1:]:
            runner.fork(together[-1].seq, runner.new(), length)
        for row in together:
            runner.truncate(row.seq, 1 if runner.capabilities.truncates else 0)
        runner.clear()
        logits = runner.read(pending, *together)
        compare.same(logits[-1][0], want, "read after all was released")
        if len(together) > 1:
            compare.same(logits[0][0], want_longer, "read after all was released")
        compare.same(runner.read(pending, *together)[-1], logits[-1], "read twice")

    def test_releasing_an_empty_sequence_is_harmless(
        self, runner: Runner, compare: Comparison
    ) -> None:
        """As often as one likes, before and after it was used."""
        prompt, tail = runner.prompt(runner.unit + 1, 1), runner.prompt(3, 2)
        after = runner.continuations(prompt, tail)
        seq, empty = runner.new(), runner.new()
        runner.feed(seq, prompt)
        room = runner.room()
        runner.release(empty)
        runner.feed(empty, prompt)
        runner.release(empty)
        runner.release(empty)
        compare.same(runner.decode(seq, tail), after, "another sequence")
        runner.shorten(seq, len(prompt))
        assert runner.room() == room, "room was lost or won"

    def test_stats_follow_the_cache(self, runner: Runner) -> None:
        """An empty cache is reported as empty; used cells are never more than there are."""
        stats = runner.backend.stats()
        assert isinstance(stats, BackendStats)
        assert stats.memory_bytes >= 0
        assert stats.cache_tokens_used == 0, "cells are in use though every sequence is empty"
        runner.feed(runner.new(), runner.prompt(runner.unit + 1, 1))
        used = runner.backend.stats().cache_tokens_used
        assert 0 <= used <= runner.capabilities.cache_tokens
        runner.clear()
        assert runner.backend.stats().cache_tokens_used == 0, "cells are in use after release"

    def test_close_and_load_again(self, device: Device, compare: Comparison) -> None:
        """A new backend after the old one is closed: same capabilities, same logits."""
        require(device.capabilities.generates, "capabilities.generates is False")
        require(device.capabilities.encoder is None, "capabilities.encoder is not None")
        runner = Runner(device.backend, device.capabilities)
        prompt, before = runner.prompt(runner.unit + 3, 1), device.capabilities
        want = runner.alone(prompt)
        # some are left full on purpose
        runner.feed(runner.new(), prompt)
        device.close()
        device.open()
        assert device.capabilities == before
        compare.same(Runner(device.backend, device.capabilities).alone(prompt), want)
