"""Promises about what a sequence holds: chunks, decoding, truncation, and ids used again."""

from __future__ import annotations

import pytest

from tgi_core.testing.conformance.comparison import Comparison
from tgi_core.testing.conformance.promises import Promises, require
from tgi_core.testing.conformance.runner import Row, Runner


class CachePromises(Promises):
    """A sequence holds exactly the tokens that were appended and not dropped."""

    @pytest.mark.parametrize(
        ("blocks", "more"),
        [(0, 2), (1, -1), (1, 0), (1, 1)],
        ids=["2", "block-1", "block", "block+1"],
    )
    def test_chunked_prefill_equals_whole(
        self, runner: Runner, compare: Comparison, blocks: int, more: int
    ) -> None:
        """However a prompt is cut, its logits and those of what follows are the same."""
        require(runner.capabilities.chunked, "capabilities.chunked is False")
        prompt, tail = runner.prompt(3 * runner.unit + 1, 1), runner.prompt(3, 2)
        want, after = runner.alone(prompt), runner.continuations(prompt, tail)
        seq = runner.new()
        compare.same(runner.feed(seq, prompt, chunk=blocks * runner.unit + more), want)
        compare.same(runner.decode(seq, tail), after, "logits after the prompt")

    def test_chunks_of_many_sizes_equal_whole(self, runner: Runner, compare: Comparison) -> None:
        """A prompt cut at irregular places is the same prompt."""
        require(runner.capabilities.chunked, "capabilities.chunked is False")
        sizes = [3, runner.unit, 1, 2, runner.unit - 3, 1, runner.unit + 2]
        prompt = runner.prompt(sum(sizes), 1)
        ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
        wants = [runner.alone(prompt[:end]) for end in ends]
        seq = runner.new()
        for size, end, want in zip(sizes, ends, wants, strict=True):
            got = runner.last(Row(seq, prompt[end - size : end]))
            compare.same(got, want, f"chunk that ends at {end}")

    def test_prompt_decoded_token_by_token_equals_whole(
        self, runner: Runner, compare: Comparison
    ) -> None:
        """Rows of one token from the very first on give what one long row gives."""
        prompt = runner.prompt(2 * runner.unit + 3, 1)
        want = runner.alone(prompt)
        compare.same(runner.decode(runner.new(), prompt)[-1], want)

    def test_decode_equals_prefill_of_the_same_tokens(
        self, runner: Runner, compare: Comparison
    ) -> None:
        """Each decoded token gives the logits of a prompt that ends with it."""
        prompt, tail = runner.prompt(runner.unit - 2, 1), runner.prompt(runner.unit + 4, 2)
        wants = runner.continuations(prompt, tail)
        seq = runner.new()
        runner.feed(seq, prompt)
        compare.same(runner.decode(seq, tail), wants)

    def test_every_token_of_the_prompt_is_seen(self, runner: Runner, compare: Comparison) -> None:
        """A prompt that differs in any one token has other logits."""
        prompt = runner.prompt(2 * runner.unit + 3, 1)
        want = runner.alone(prompt)
        for place, token in enumerate(prompt):
            changed = list(prompt)
            changed[place] = (token + 1) % runner.capabilities.vocab_size
            compare.different(runner.alone(changed), want, f"token {place} changed")

    def test_order_of_tokens_matters(self, runner: Runner, compare: Comparison) -> None:
        """Two neighbours that change places change the logits, wherever they stand."""
        prompt = runner.prompt(runner.unit + 3, 1)
        want = runner.alone(prompt)
        for place in range(len(prompt) - 1):
            first, second = prompt[place : place + 2]
            if first != second:
                swapped = [*prompt[:place], second, first, *prompt[place + 2 :]]
                compare.different(
                    runner.alone(swapped), want, f"tokens {place} and {place + 1} swapped"
                )

    def test_reused_id_shows_nothing_of_the_old_sequence(
        self, runner: Runner, compare: Comparison
    ) -> None:
        """A released id is as good as new, on the way over all that it once held."""
        prompt, tail = runner.prompt(runner.unit // 2, 1), runner.prompt(2 * runner.unit, 2)
        want, after = runner.alone(prompt), runner.continuations(prompt, tail)
        for seed in (3, 4):
            seq = runner.new()
            runner.feed(seq, runner.prompt(3 * runner.unit + seed, seed))
            runner.release(seq)
            compare.same(runner.feed(seq, prompt), want)
            compare.same(runner.decode(seq, tail), after, "logits after the prompt")
            runner.release(seq)

    def test_preempted_sequence_recomputes_the_same(
        self, runner: Runner, compare: Comparison
    ) -> None:
        """Releasing a sequence and feeding all its tokens again changes nothing."""
        prompt, tail = runner.prompt(runner.unit + 2, 1), runner.prompt(6, 2)
        after = runner.continuations(prompt, tail)
        seq, other = runner.new(), runner.new()
        runner.feed(seq, prompt)
        compare.same(runner.decode(seq, tail[:3]), after[:3])
        runner.release(seq)
        runner.feed(other, runner.prompt(runner.unit, 3))
        compare.same(runner.feed(seq, [*prompt, *tail[:4]]), after[3], "recomputed logits")
        compare.same(runner.decode(seq, tail[4:]), after[4:], "logits after recomputing")

    def test_truncate_is_exact_at_every_length(self, runner: Runner, compare: Comparison) -> None:
        """The first `length` tokens stay and nothing else does, from 0 to all of them."""
        _require_truncates(runner)
        prompt, tail = runner.prompt(2 * runner.unit + 2, 1), runner.prompt(3, 2)
        for length in range(len(prompt) + 1):
            after = runner.continuations(prompt[:length], tail)
            seq = runner.new()
            runner.feed(seq, prompt)
            runner.truncate(seq, length)
            compare.same(runner.decode(seq, tail), after, f"truncated to {length}")
            runner.release(seq)

    def test_truncate_to_nothing_or_to_all_is_exact(
        self, runner: Runner, compare: Comparison
    ) -> None:
        """The two lengths that every backend has: core parks sequences, and begins them anew."""
        prompt, tail = runner.prompt(runner.unit + 2, 1), runner.prompt(3, 2)
        after, fresh = runner.continuations(prompt, tail), runner.continuations((), tail)
        seq = runner.new()
        runner.feed(seq, prompt)
        runner.reserve(seq, len(prompt) + runner.unit)
        runner.truncate(seq, len(prompt))
        compare.same(runner.decode(seq, tail), after, "truncated to what it holds")
        runner.truncate(seq, 0)
        compare.same(runner.decode(seq, tail), fresh, "truncated to nothing")

    def test_truncate_can_be_repeated(self, runner: Runner, compare: Comparison) -> None:
        """Shorter and shorter, growing in between: as when drafts are rejected again and again."""
        _require_truncates(runner)
        tokens = runner.prompt(2 * runner.unit + 5, 1)
        seq = runner.new()
        runner.feed(seq, tokens)
        while len(tokens) > 4:
            tokens = [*tokens[: len(tokens) - 5], *runner.prompt(2, len(tokens))]
            want = runner.continuations(tokens[:-2], tokens[-2:])
            runner.truncate(seq, len(tokens) - 2)
            compare.same(runner.decode(seq, tokens[-2:]), want, f"grown to {len(tokens)} again")

    def test_truncate_and_release_leave_other_sequences_alone(
        self, runner: Runner, compare: Comparison
    ) -> None:
        """What one sequence drops, and who then takes its room, is nothing to the others."""
        prompts = [runner.prompt(runner.unit + 3, seed) for seed in range(3)]
        tail = runner.prompt(4, 9)
        after = runner.continuations(prompts[0], tail)
        kept, cut, gone = (runner.new() for _ in prompts)
        for seq, prompt in zip((kept, cut, gone), prompts, strict=True):
            runner.feed(seq, prompt)
        compare.same(runner.decode(kept, tail[:1]), after[:1])
        runner.shorten(cut, runner.unit // 2)
        compare.same(runner.decode(kept, tail[1:2]), after[1:2], "after a truncate elsewhere")
        runner.release(gone)
        runner.feed(gone, runner.prompt(2 * runner.unit, 5))
        runner.decode(cut, runner.prompt(runner.unit, 6))
        compare.same(runner.decode(kept, tail[2:]), after[2:], "after others took the room")


def _require_truncates(runner: Runner) -> None:
    require(runner.capabilities.truncates, "capabilities.truncates is False")
