"""Random traffic of thousands of operations: no leak, no double free, nobody starves."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engines import LOAD, fake_engine, generate, no_progress, requests
from tests.speculators import Prophet
from tgi_core.cache.manager import CacheManager
from tgi_core.contract import BlockPool, BlockTables, Fork, RequestFailed, Step, TokenEvent
from tgi_core.contract.result import PendingLogits
from tgi_core.engine.limits import EngineLimits
from tgi_core.testing.fake import FakeBackend, FakeShape


class Watched(FakeBackend):
    """Checks what every step must respect."""

    drafts = False
    """Whether rows may have some."""

    def step(self, step: Step) -> PendingLogits:
        shape = self._shape
        assert shape is not None
        assert 0 < step.num_rows <= shape.max_rows
        assert step.num_tokens == step.n.sum() <= shape.max_step_tokens
        assert len(set(step.seq.tolist())) == step.num_rows
        assert (step.n >= 1).all()
        for seq, past, n in zip(
            step.seq.tolist(), step.past.tolist(), step.n.tolist(), strict=True
        ):
            assert self.tables.held(seq) == past
            room = self.tables.num_blocks(seq) * shape.block_tokens
            assert past + n <= room, "a step without room"
        if not shape.mixed:
            assert (step.n == 1).all() or (step.n > 1).all()
        if not shape.chunked and not self.drafts:
            assert (step.past[step.n > 1] == 0).all()
        return super().step(step)


SHAPES = st.fixed_dictionaries(
    {
        "cache_tokens": st.sampled_from([96, 192, 1024]),
        "block_tokens": st.sampled_from([1, 4, 16]),
        "max_sequences": st.sampled_from([3, 8, 40]),
        "max_rows": st.sampled_from([1, 3, 8]),
        "max_step_tokens": st.sampled_from([96, 200]),
        "max_sequence_tokens": st.just(96),
        "fork": st.sampled_from(list(Fork)),
        "steps_in_flight": st.sampled_from([1, 2]),
        "mixed_chunked": st.sampled_from([(True, True), (False, True), (False, False)]),
    }
)


@settings(max_examples=25, deadline=None)
@given(
    shape=SHAPES,
    chunk=st.sampled_from([None, 1, 5]),
    drafts=st.sampled_from([0, 0, 1, 6]),
    seed=st.integers(0, 2**32),
)
def test_random_traffic_keeps_every_invariant(
    shape: dict[str, object], chunk: int | None, drafts: int, seed: int
) -> None:
    shape = dict(shape)
    shape["mixed"], shape["chunked"] = shape.pop("mixed_chunked")  # type: ignore[misc]
    backend = Watched(FakeShape(**shape))  # type: ignore[arg-type]
    backend.drafts = bool(drafts)
    rng = random.Random(seed)
    todo = requests(120, seed % 1000, max_prompt=50, max_new=60)
    speculator = Prophet(todo, generate(fake_engine(), todo, per_step=9), seed) if drafts else None
    limits = EngineLimits(max_chunk_tokens=chunk, num_drafts=drafts)
    engine = fake_engine(limits, backend, speculator=speculator)
    waiting_since: dict[str, int] = {}
    ended: set[str] = set()
    submitted: list[str] = []
    for turn in range(10_000):
        act = rng.random()
        if todo and act < 0.3:
            request = todo.pop()
            engine.submit(request)
            submitted.append(request.request_id)
            waiting_since[request.request_id] = turn
        elif submitted and act < 0.33:
            victim = rng.choice(submitted)
            engine.cancel(victim)
            waiting_since.pop(victim, None)
        else:
            for event in engine.poll(0):
                if isinstance(event, TokenEvent):
                    assert event.request_id in waiting_since, "a token after the end"
                    if event.finish:
                        del waiting_since[event.request_id]
                        ended.add(event.request_id)
                elif isinstance(event, RequestFailed):
                    assert event.invalid, event
                    waiting_since.pop(event.request_id)
        if not todo and not engine.busy:
            break
    assert not waiting_since, "starved"
    assert ended
    # what is left belongs to parked sequences; opening all the cache at once evicts them
    longest = min(96, backend.tables._pool.num_blocks * backend.tables.block_tokens)
    manager: CacheManager = engine._cache
    opened = manager.open("fresh", list(range(longest)), longest, share=False)
    assert opened is not None
    manager.release(opened.seq)
    while manager._parked:
        manager.release(next(iter(manager._parked)))
    assert backend.tables.used_blocks == 0, "leaked blocks"
    assert manager.num_free == shape["max_sequences"], "leaked sequence ids"
    assert not manager._index._entries and not manager._index._holders, "leaked index entries"


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_block_tables_are_a_model_of_lists(data: st.DataObject) -> None:
    """Against plain lists: contents follow copies, and nobody sees another's writes."""
    block, num_blocks, num_seqs = data.draw(st.sampled_from([1, 3, 4])), 12, 5
    pool = BlockPool(num_blocks)
    tables = BlockTables(pool, block, num_seqs, 24)
    cells: dict[tuple[int, int], int] = {}
    model: list[list[int]] = [[] for _ in range(num_seqs)]
    stamp = 0
    for _ in range(data.draw(st.integers(1, 60))):
        seq = data.draw(st.integers(0, num_seqs - 1))
        match data.draw(st.sampled_from(["append", "fork", "truncate", "release"])):
            case "append":
                n = data.draw(st.integers(1, 5))
                if len(model[seq]) + n > 24:
                    continue
                free = pool.num_free
                copies = tables.reserve(seq, len(model[seq]) + n)
                if copies is None:
                    assert pool.num_free == free
                    continue
                for copy in copies:
                    for i in range(block):
                        if (copy.src, i) in cells:
                            cells[copy.dst, i] = cells[copy.src, i]
                import numpy as np

                row = tables.rows(np.array([seq], np.int32))[0]
                for i in range(len(model[seq]), len(model[seq]) + n):
                    stamp += 1
                    cells[int(row[i // block]), i % block] = stamp
                    model[seq].append(stamp)
                tables.advance(seq, n)
            case "fork":
                dst = data.draw(st.integers(0, num_seqs - 1))
                if dst == seq or model[dst] or tables.num_blocks(dst):
                    continue
                length = data.draw(st.integers(0, len(model[seq])))
                tables.fork(seq, dst, length)
                model[dst] = model[seq][:length]
            case "truncate":
                length = data.draw(st.integers(0, len(model[seq])))
                tables.truncate(seq, length)
                del model[seq][length:]
            case "release":
                tables.release(seq)
                model[seq].clear()
        for s in range(num_seqs):
            row = tables.rows(np_array(s))[0]
            held = [cells[int(row[i // block]), i % block] for i in range(len(model[s]))]
            assert held == model[s]
    for s in range(num_seqs):
        tables.release(s)
    assert pool.num_free == num_blocks


def np_array(seq: int) -> object:
    import numpy as np

    return np.array([seq], np.int32)


def test_a_double_free_is_an_error() -> None:
    pool = BlockPool(2)
    block = pool.allocate()
    pool.release(block)
    with pytest.raises(ValueError, match="free already"):
        pool.release(block)
    with pytest.raises(ValueError, match="cannot be shared"):
        pool.share(block)


def test_the_oldest_always_advances() -> None:
    """A cache for little more than one sequence, and a steady stream of new ones."""
    engine = fake_engine(cache_tokens=128, max_sequence_tokens=112)
    todo = requests(30, max_prompt=40, max_new=60)
    order: list[str] = []
    while todo or engine.busy:
        if todo:
            engine.submit(todo.pop(0))
        for event in engine.poll(0):
            if isinstance(event, TokenEvent) and event.finish:
                order.append(event.request_id)
    late = [abs(int(r[1:]) - place) for place, r in enumerate(order)]
    assert max(late) < 12, "somebody was overtaken again and again"


def test_loading_again_starts_empty() -> None:
    backend = FakeBackend(FakeShape())
    backend.load(LOAD, no_progress)
    assert backend.stats().cache_tokens_used == 0
