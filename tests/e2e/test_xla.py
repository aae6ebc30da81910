"""A server on XLA's CPU device gives transformers' own greedy tokens of the real model."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.greedy import SHAPES, check_answers
from tests.servers import ServerFactory
from tests.xla import needs_torch_xla

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200), needs_torch_xla]


def test_xla_compiles_and_serves(serve: ServerFactory, smollm2: Path) -> None:
    asked = ("--backend", "xla", *SHAPES, "--max-step-tokens", "32", "--cache-tokens", "256")
    with serve(str(smollm2), *asked) as server:
        check_answers(server, smollm2)
