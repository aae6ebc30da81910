"""Promises about steps of several rows: nobody notices the others."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from tgi_core.contract import ANY_LENGTH
from tgi_core.testing.conformance.comparison import Comparison
from tgi_core.testing.conformance.promises import Promises, require
from tgi_core.testing.conformance.runner import Row, Runner
from tgi_core.testing.conformance.traffic import Traffic


class BatchingPromises(Promises):
    """A row's logits depend on its own sequence and on nothing else in the step."""

    def test_sequence_ids_do_not_matter(self, runner: Runner, compare: Comparison) -> None:
        """First, last and middle id give the same, while the others hold something."""
        prompt, tail = runner.prompt(runner.unit + 2, 1), runner.prompt(2, 2)
        after = runner.continuations(prompt, tail)
        last = runner.capabilities.max_sequences - 1
        for seq in (last, 0, last // 2):
            runner.feed(seq, prompt)
            compare.same(runner.decode(seq, tail), after, f"sequence {seq}")

    def test_row_order_does_not_matter(self, runner: Runner, compare: Comparison) -> None:
        """Three rows of different lengths, in every order: prefilled, then decoded."""
        _require_rows(runner, 3)
        prompts = [runner.prompt(n, n) for n in (runner.unit + 2, 3, runner.unit - 1)]
        tails = [runner.prompt(1, seed) for seed in range(3)]
        wants = [runner.alone(prompt) for prompt in prompts]
        afters = [runner.alone(p + t) for p, t in zip(prompts, tails, strict=True)]
        for order in permutations(range(3)):
            seqs = {i: runner.new() for i in sorted(order)}
            got = runner.step(*[Row(seqs[i], prompts[i]) for i in order])
            for i, logits in zip(order, got, strict=True):
                compare.same(logits[0], wants[i], f"prefill, order {order}, row {i}")
            got = runner.step(*[Row(seqs[i], tails[i]) for i in reversed(order)])
            for i, logits in zip(reversed(order), got, strict=True):
                compare.same(logits[0], afters[i], f"decode, order {order} reversed, row {i}")
            runner.release(*seqs.values())

    def test_neighbours_do_not_matter(self, runner: Runner, compare: Comparison) -> None:
        """One sequence is decoded beside others that change in number, length and content."""
        _require_rows(runner, 3)
        prompt, tail = runner.prompt(runner.unit - 1, 1), runner.prompt(6, 2)
        after = runner.continuations(prompt, tail)
        seq, short, long = runner.new(), runner.new(), runner.new()
        runner.feed(seq, prompt)
        runner.feed(short, runner.prompt(1, 3))
        runner.feed(long, runner.prompt(2 * runner.unit + 3, 4))
        noise = runner.prompt(6, 5)
        for turn, others in enumerate([(), (short,), (long,), (long, short), (short, long), ()]):
            rows = [Row(other, [noise[turn]]) for other in others]
            rows.insert(turn % (len(rows) + 1), Row(seq, [tail[turn]]))
            got = runner.step(*rows)[rows.index(Row(seq, [tail[turn]]))]
            compare.same(got, after[turn : turn + 1], f"beside {len(others)} other rows")

    def test_interleaved_sequences_stay_apart(self, runner: Runner, compare: Comparison) -> None:
        """Two sequences that grow by turns, piece by piece, so that their blocks alternate."""
        tokens = [runner.prompt(2 * runner.unit + 4, seed) for seed in (1, 2)]
        wants = [runner.continuations(some[:-2], some[-2:]) for some in tokens]
        seqs = [runner.new(), runner.new()]
        piece = runner.unit // 2 + 1
        for begin in range(0, len(tokens[0]) - 2, piece):
            for seq, some in zip(seqs, tokens, strict=True):
                runner.feed(seq, some[begin : min(begin + piece, len(some) - 2)])
        for seq, some, want in zip(seqs, tokens, wants, strict=True):
            compare.same(runner.decode(seq, some[-2:]), want)

    def test_prefill_and_decode_share_a_step(self, runner: Runner, compare: Comparison) -> None:
        """Rows of one token beside new prompts, and beside later chunks where there are any."""
        require(runner.capabilities.mixed, "capabilities.mixed is False")
        _require_rows(runner, 3)
        old = [runner.prompt(n, n) for n in (runner.unit + 1, 5)]
        new = runner.prompt(runner.unit + 3, 9)
        wants = [runner.alone(tokens) for tokens in (*old, new)]
        for order in permutations(range(3)):
            seqs = [runner.new() for _ in range(3)]
            runner.feed(seqs[0], old[0][:-1])
            runner.feed(seqs[1], old[1][:-1])
            begin = 0
            if runner.capabilities.chunked:
                begin = runner.unit - 1
                runner.feed(seqs[2], new[:begin])
            rows = [Row(seqs[0], old[0][-1:]), Row(seqs[1], old[1][-1:]), Row(seqs[2], new[begin:])]
            got = runner.step(*[rows[i] for i in order])
            for i, logits in zip(order, got, strict=True):
                compare.same(logits[0], wants[i], f"order {order}, row {i}")
            runner.release(*seqs)

    @pytest.mark.parametrize("busy", [(0,), (1,), (2,), (0, 1), (2, 0), (1, 2)])
    def test_decoding_a_subset_leaves_idle_rows_alone(
        self, runner: Runner, compare: Comparison, busy: tuple[int, ...]
    ) -> None:
        """Some sequences take several steps while others idle; then the idle ones go on."""
        _require_rows(runner, 2)
        prompts = [runner.prompt(n, n) for n in (3, runner.unit + 1, 2 * runner.unit)]
        tails = [runner.prompt(runner.unit // 2 + 2, seed) for seed in range(3)]
        afters = [runner.continuations(p, t) for p, t in zip(prompts, tails, strict=True)]
        seqs = [runner.new() for _ in prompts]
        for seq, prompt in zip(seqs, prompts, strict=True):
            runner.feed(seq, prompt)
        for turn in range(len(tails[0])):
            got = runner.step(*[Row(seqs[i], [tails[i][turn]]) for i in busy])
            for i, logits in zip(busy, got, strict=True):
                compare.same(logits[0], afters[i][turn], f"busy row {i}, turn {turn}")
        for i in set(range(3)) - set(busy):
            compare.same(runner.decode(seqs[i], tails[i]), afters[i], f"row {i}, after idling")

    def test_only_the_rows_that_were_asked_for_come_back(
        self, runner: Runner, compare: Comparison
    ) -> None:
        """The last tokens of some rows, of all, or of none; in order."""
        _require_rows(runner, 3)
        prompts = [runner.prompt(n, n) for n in (4, runner.unit + 1, runner.unit - 2)]
        wants = [runner.alone(prompt) for prompt in prompts]
        for chosen in ((0,), (1,), (2,), (0, 2), (1, 2), (0, 1, 2), ()):
            seqs = [runner.new() for _ in prompts]
            got = runner.step(
                *[
                    Row(seq, prompt, (-1,) if i in chosen else ())
                    for i, (seq, prompt) in enumerate(zip(seqs, prompts, strict=True))
                ]
            )
            for i in chosen:
                compare.same(got[i][0], wants[i], f"row {i} of {chosen}")
            runner.release(*seqs)

    def test_logits_of_any_token_can_be_had(self, runner: Runner, compare: Comparison) -> None:
        """All tokens, none, the last ones, and random choices of them; in order."""
        require(runner.sees_all, f"capabilities.logits is {runner.capabilities.logits.name}")
        _require_rows(runner, 3)
        prompts = [runner.prompt(n, n) for n in (runner.unit - 2, 3, runner.unit + 1)]
        wants = [runner.continuations((), prompt) for prompt in prompts]
        rng = np.random.default_rng(1)
        for chance in (1.0, 0.0, 0.2, 0.5, 0.8):
            seqs = [runner.new() for _ in prompts]
            places = [tuple(np.flatnonzero(rng.random(len(p)) < chance).tolist()) for p in prompts]
            got = runner.step(*map(Row, seqs, prompts, places))
            for logits, want, chosen in zip(got, wants, places, strict=True):
                compare.same(logits, want[list(chosen)], f"places {chosen}")
            runner.release(*seqs)

    def test_draft_rows_equal_decoding_one_by_one(
        self, runner: Runner, compare: Comparison
    ) -> None:
        """A decode row with drafts gives each token's logits, and rejected ones can be dropped."""
        lengths = runner.capabilities.draft_lengths
        require(bool(lengths), "capabilities.draft_lengths is empty")
        require(runner.sees_all, f"capabilities.logits is {runner.capabilities.logits.name}")
        for n in (2, 3, 5) if lengths == (ANY_LENGTH,) else lengths:
            prompt, tail = runner.prompt(runner.unit + n - 3, 1), runner.prompt(n + 1, 2)
            after = runner.continuations(prompt, tail)
            seq, other = runner.new(), runner.new()
            runner.feed(seq, prompt)
            runner.feed(other, tail)
            for accepted in range(1, n):
                wrong = [(t + 1) % runner.capabilities.vocab_size for t in tail[accepted:n]]
                drafts = [*tail[:accepted], *wrong]
                rows = [Row(seq, drafts, tuple(range(n)))]
                if runner.capabilities.max_rows > 1:
                    rows.append(Row(other, prompt[:n]))
                got = runner.step(*rows)[0]
                compare.same(got[:accepted], after[:accepted], f"{accepted} of {n} right")
                runner.truncate(seq, len(prompt) + accepted)
                compare.same(
                    runner.decode(seq, tail[accepted : accepted + 1]),
                    after[accepted : accepted + 1],
                    "after the wrong drafts were dropped",
                )
                runner.truncate(seq, len(prompt))
                runner.truncate(other, len(tail))
            runner.release(seq, other)

    def test_rows_with_drafts_share_a_step(self, runner: Runner, compare: Comparison) -> None:
        """Rows of several lengths, one without drafts if that can be; step after step."""
        lengths = runner.capabilities.draft_lengths
        require(bool(lengths), "capabilities.draft_lengths is empty")
        require(runner.sees_all, f"capabilities.logits is {runner.capabilities.logits.name}")
        _require_rows(runner, 3)
        choices = [4, 2, 6] if lengths == (ANY_LENGTH,) else list(lengths)
        if runner.capabilities.mixed:
            choices.append(1)
        prompts = [runner.prompt(n, n) for n in (runner.unit - 3, 5, runner.unit + 1)]
        tails = [runner.prompt(max(choices) + 12, seed) for seed in range(3)]
        afters = [runner.continuations(p, t) for p, t in zip(prompts, tails, strict=True)]
        seqs = [runner.new() for _ in prompts]
        for seq, prompt in zip(seqs, prompts, strict=True):
            runner.feed(seq, prompt)
        done = [0, 0, 0]
        for turn in range(5):
            rows, right = [], []
            for i, seq in enumerate(seqs):
                n = choices[(turn + i) % len(choices)]
                right.append(min(1 + (turn + i) % 3, n))
                tokens = tails[i][done[i] : done[i] + n]
                wrong = [(t + 1) % runner.capabilities.vocab_size for t in tokens[right[i] :]]
                rows.append(Row(seq, [*tokens[: right[i]], *wrong], tuple(range(n))))
            for i, logits in enumerate(runner.step(*rows)):
                want = afters[i][done[i] : done[i] + right[i]]
                compare.same(logits[: right[i]], want, f"row {i} of turn {turn}")
                done[i] += right[i]
                runner.truncate(seqs[i], len(prompts[i]) + done[i])

    @pytest.mark.parametrize("seed", range(3))
    def test_random_traffic_equals_each_sequence_alone(
        self, runner: Runner, compare: Comparison, seed: int
    ) -> None:
        """Sequences that come, grow, fork, shrink and go at random: all logits are right.

        Two faults can cancel each other in a tidy test; here they have no reason to.
        """
        traffic = Traffic(runner, seed)
        for _ in range(60):
            traffic.move()
        runner.clear()
        for tokens, logits in traffic.seen:
            compare.same(logits, runner.alone(tokens), f"a sequence of {len(tokens)} tokens")


def _require_rows(runner: Runner, num: int) -> None:
    require(
        runner.capabilities.max_rows >= num,
        f"capabilities.max_rows is {runner.capabilities.max_rows}",
    )
