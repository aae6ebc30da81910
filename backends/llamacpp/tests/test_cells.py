"""The ledger counts every shared cell once, whatever is forked, cut and released."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tgi_backend_llamacpp.cells import CellLedger

CELLS, SEQUENCES, LONGEST = 24, 5, 12
SEQ = st.integers(0, SEQUENCES - 1)
OPERATIONS = st.lists(st.tuples(st.integers(0, 4), SEQ, SEQ, st.integers(0, LONGEST)), max_size=60)


@given(OPERATIONS)
def test_the_ledger_agrees_with_sets_of_named_cells(operations: list) -> None:
    ledger = CellLedger(CELLS, SEQUENCES, LONGEST)
    cells: list[list[object]] = [[] for _ in range(SEQUENCES)]
    held = [0] * SEQUENCES
    for kind, seq, other, length in operations:
        if kind == 0:
            missing = max(0, length - len(cells[seq]))
            fits = len(set().union(*cells)) + missing <= CELLS
            assert ledger.reserve(seq, length) == fits
            if fits:
                cells[seq] += [object() for _ in range(missing)]
        elif kind == 1:
            n = len(cells[seq]) - held[seq]
            ledger.advance(np.array([seq], np.int32), np.array([n], np.int32))
            held[seq] += n
        elif kind == 2 and not cells[other] and seq != other:
            length = min(length, held[seq])
            ledger.fork(seq, other, length)
            cells[other], held[other] = cells[seq][:length], length
        elif kind == 3 and length <= held[seq]:
            ledger.truncate(seq, length)
            del cells[seq][length:]
            held[seq] = length
        elif kind == 4:
            ledger.truncate(seq, 0)
            cells[seq], held[seq] = [], 0
        assert ledger.num_used == len(set().union(*cells))
        assert ledger.held.tolist() == held
        assert ledger.reserved.tolist() == list(map(len, cells))
    for seq in range(SEQUENCES):
        ledger.truncate(seq, 0)
    assert all(ledger.reserve(seq, LONGEST) for seq in range(CELLS // LONGEST))


def test_a_fork_into_a_sequence_in_use_is_an_error() -> None:
    ledger = CellLedger(CELLS, SEQUENCES, LONGEST)
    ledger.reserve(1, 1)
    with pytest.raises(ValueError, match="not empty"):
        ledger.fork(0, 1, 0)
