"""Promises about room and about the largest of everything: what is claimed can be had."""

from __future__ import annotations

from tgi_core.testing.conformance.comparison import Comparison
from tgi_core.testing.conformance.promises import Promises, require, require_fillable
from tgi_core.testing.conformance.runner import Logits, Row, Runner


class LimitPromises(Promises):
    """Limits are reached exactly, and beyond them nothing happens in silence."""

    def test_refused_reserve_changes_nothing(self, runner: Runner, compare: Comparison) -> None:
        """Neither what a sequence holds nor what the others can still have."""
        require_fillable(runner)
        prompt, tail = runner.prompt(runner.unit + 3, 1), runner.prompt(4, 2)
        after = runner.continuations(prompt, tail)
        seqs = [runner.new(), runner.new()]
        for seq in seqs:
            runner.feed(seq, prompt)
        empty = runner.new()
        _fill_but_one_grain(runner, but=(empty,))
        room = runner.room(but=(empty,))
        for seq in (seqs[0], empty, seqs[0]):
            granted = runner.reserve(seq, runner.capabilities.max_sequence_tokens)
            assert not granted, "more was granted than capabilities.cache_tokens"
            assert runner.room(but=(empty,)) == room, "the refused reserve took room"
        runner.release(*(set(range(runner.capabilities.max_sequences)) - set(seqs)))
        for seq in seqs:
            compare.same(runner.decode(seq, tail), after, "logits after the refusal")

    def test_refused_reserve_is_granted_after_a_release(
        self, runner: Runner, compare: Comparison
    ) -> None:
        """Room that one sequence gives back is another one's at once, and is really there."""
        require_fillable(runner)
        prompt, more = runner.prompt(runner.unit + 3, 1), runner.prompt(2 * runner.unit, 2)
        want = runner.alone(prompt + more)
        seq, parked = runner.new(), runner.new()
        runner.feed(seq, prompt)
        runner.feed(parked, runner.prompt(3 * runner.unit + 1, 3))
        runner.fill()
        assert not runner.reserve(seq, len(prompt + more)), "granted in a full cache"
        runner.release(parked)
        assert runner.reserve(seq, len(prompt + more)), "refused although there is room again"
        compare.same(runner.feed(seq, more), want)

    def test_truncate_gives_room_back(self, runner: Runner) -> None:
        """What a truncated sequence drops is free, and so is what it had reserved beyond."""
        require(runner.capabilities.truncates, "capabilities.truncates is False")
        require_fillable(runner)
        seq, spare = runner.new(), runner.new()
        runner.feed(seq, runner.prompt(2 * runner.unit + 1, 1))
        runner.reserve(seq, 4 * runner.unit)
        runner.fill(but=(spare,))
        runner.truncate(seq, runner.unit - 1)
        assert runner.reserve(spare, 3 * runner.unit), "the truncated sequence kept the room"

    def test_cache_can_be_filled_and_freed_again_and_again(
        self, runner: Runner, compare: Comparison
    ) -> None:
        """All of `cache_tokens`, three times over: nothing leaks, nothing is mixed up."""
        for turn in range(3):
            seqs = _fill_with_tokens(runner, runner.capabilities.cache_tokens, seed=turn)
            got = {seq: (runner.held[seq], logits) for seq, logits in seqs.items()}
            runner.release(*list(seqs)[turn:], *list(seqs)[:turn])
            for seq, (tokens, logits) in got.items():
                compare.same(logits, runner.alone(tokens), f"turn {turn}, sequence {seq}")

    def test_every_sequence_id_can_be_used(self, runner: Runner, compare: Comparison) -> None:
        """As many sequences at once as are claimed, or as the cache has room for."""
        capabilities = runner.capabilities
        num = min(capabilities.max_sequences, _sequences_of(runner, 3))
        ids = list(range(capabilities.max_sequences))
        ids = ids[: num // 2] + ids[len(ids) - (num - num // 2) :]
        prompts = {seq: runner.prompt(2 + seq % 2, seq) for seq in ids}
        wants = {seq: runner.alone(prompt) for seq, prompt in prompts.items()}
        for seq in ids:
            runner.feed(seq, prompts[seq][:-1])
        ids.reverse()
        for begin in range(0, num, capabilities.max_rows):
            some = ids[begin : begin + capabilities.max_rows]
            got = runner.step(*[Row(seq, prompts[seq][-1:]) for seq in some])
            for seq, logits in zip(some, got, strict=True):
                compare.same(logits[0], wants[seq], f"sequence {seq} of {num}")

    def test_step_of_most_rows(self, runner: Runner, compare: Comparison) -> None:
        """`max_rows` sequences decode in one step."""
        capabilities = runner.capabilities
        num = capabilities.max_rows
        require(num <= _sequences_of(runner, 4), "capabilities.cache_tokens is below max_rows")
        _check_rows(runner, compare, num)

    def test_step_of_too_many_rows_is_refused_or_right(
        self, runner: Runner, compare: Comparison
    ) -> None:
        """One row more than `max_rows` is never dropped in silence."""
        capabilities = runner.capabilities
        num = capabilities.max_rows + 1
        require(num <= capabilities.max_sequences, "capabilities.max_sequences equals max_rows")
        require(num <= _sequences_of(runner, 4), "capabilities.cache_tokens is below max_rows")
        try:
            _check_rows(runner, compare, num)
        except AssertionError:
            raise
        except Exception:  # the contract names no error for this, so any one will do
            runner.clear()
        _check_rows(runner, compare, capabilities.max_rows)

    def test_step_of_most_tokens(self, runner: Runner, compare: Comparison) -> None:
        """`max_step_tokens` prompt tokens in one step."""
        capabilities = runner.capabilities
        total = capabilities.max_step_tokens
        row = min(capabilities.max_prefill_tokens, capabilities.max_sequence_tokens)
        num = -(-total // row)
        require(num <= capabilities.max_rows, "capabilities.max_rows is too low to get there")
        require(num <= _sequences_of(runner, row), "capabilities.cache_tokens is too low")
        sizes = [total // num + (i < total % num) for i in range(num)]
        prompts = [runner.prompt(size, seed) for seed, size in enumerate(sizes)]
        wants = [_in_pieces(runner, prompt) for prompt in prompts]
        got = runner.step(*[Row(runner.new(), prompt) for prompt in prompts])
        for i, logits in enumerate(got):
            compare.same(logits[0], wants[i], f"row {i} of {num}")

    def test_longest_prefill_equals_its_pieces(self, runner: Runner, compare: Comparison) -> None:
        """A row of `max_prefill_tokens` is taken whole: nothing of it is cropped."""
        prompt = runner.prompt(_longest_row(runner), 1)
        want = _in_pieces(runner, prompt)
        compare.same(runner.last(Row(runner.new(), prompt)), want)

    def test_prefill_over_the_limit_is_refused_or_right(
        self, runner: Runner, compare: Comparison
    ) -> None:
        """A row that is too long is never cropped in silence, and does no harm."""
        length = _longest_row(runner) + 1
        require(
            length <= runner.capabilities.max_sequence_tokens,
            "capabilities.max_prefill_tokens is the longest sequence",
        )
        prompt = runner.prompt(length, 1)
        want = _in_pieces(runner, prompt)
        seq = runner.new()
        try:
            logits = runner.last(Row(seq, prompt))
        except AssertionError:
            raise
        except Exception:  # the contract names no error for this, so any one will do
            logits = runner.feed(seq, prompt, chunk=runner.unit)
        compare.same(logits, want, f"a prompt of {length} tokens")

    def test_longest_sequence_equals_its_pieces(self, runner: Runner, compare: Comparison) -> None:
        """`max_sequence_tokens` can be held, and the last one decoded."""
        tokens = runner.prompt(runner.capabilities.max_sequence_tokens, 1)
        want = _in_pieces(runner, tokens)
        seq = runner.new()
        runner.feed(seq, tokens[:-2])
        compare.same(runner.decode(seq, tokens[-2:])[-1], want)

    def test_sequence_over_the_limit_is_refused(self, runner: Runner, compare: Comparison) -> None:
        """Room for more than `max_sequence_tokens` is not to be had, and asking does no harm.

        But for the rest of the last block, which a paged backend may well grant.
        """
        grain = runner.capabilities.cache_grain_tokens
        most = -(-runner.capabilities.max_sequence_tokens // grain) * grain
        prompt, tail = runner.prompt(runner.unit + 3, 1), runner.prompt(3, 2)
        after = runner.continuations(prompt, tail)
        seq = runner.new()
        runner.feed(seq, prompt)
        try:
            granted = runner.reserve(seq, most + 1)
        except Exception:  # the contract names no error for this, so any one will do
            granted = False
        assert not granted, "room for more than capabilities.max_sequence_tokens was granted"
        compare.same(runner.decode(seq, tail), after)


def _longest_row(runner: Runner) -> int:
    capabilities = runner.capabilities
    return min(
        capabilities.max_prefill_tokens,
        capabilities.max_step_tokens,
        capabilities.max_sequence_tokens,
    )


def _in_pieces(runner: Runner, tokens: list[int]) -> Logits:
    """Logits of the last token, from chunks smaller than a block or from decoding."""
    seq = runner.new()
    logits = runner.feed(seq, tokens, chunk=runner.unit - 1)
    runner.release(seq)
    return logits


def _sequences_of(runner: Runner, tokens: int) -> int:
    """How many sequences of that length the cache has room for."""
    grain = runner.capabilities.cache_grain_tokens
    return runner.capabilities.cache_tokens // (-(-tokens // grain) * grain)


def _check_rows(runner: Runner, compare: Comparison, num: int) -> None:
    """Decodes `num` rows in one step."""
    prompts = [runner.prompt(2 + seed % 3, seed) for seed in range(num)]
    wants = [runner.alone(prompt) for prompt in prompts]
    seqs = [runner.new() for _ in prompts]
    for seq, prompt in zip(seqs, prompts, strict=True):
        runner.feed(seq, prompt[:-1])
    got = runner.step(*[Row(s, prompt[-1:]) for s, prompt in zip(seqs, prompts, strict=True)])
    for i, logits in enumerate(got):
        compare.same(logits[0], wants[i], f"row {i} of {num}")
    runner.release(*seqs)


def _fill_but_one_grain(runner: Runner, but: tuple[int, ...]) -> None:
    """Reserves all room but one grain, so that a careless refusal has something to take."""
    seq, length = runner.fill(but).popitem()
    runner.release(seq)
    if length > runner.capabilities.cache_grain_tokens:
        assert runner.reserve(seq, length - runner.capabilities.cache_grain_tokens)


def _fill_with_tokens(runner: Runner, room: int, seed: int) -> dict[int, Logits]:
    """Feeds new sequences until they hold `room` tokens; the last logits of each."""
    capabilities = runner.capabilities
    grain = capabilities.cache_grain_tokens
    logits: dict[int, Logits] = {}
    while room >= grain and len(logits) < capabilities.max_sequences:
        length = min(room, capabilities.max_sequence_tokens)
        seq = runner.new()
        logits[seq] = runner.feed(seq, runner.prompt(length, 1000 * seed + seq))
        room -= -(-length // grain) * grain
    return logits
