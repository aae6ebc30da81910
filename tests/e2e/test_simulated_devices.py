"""Servers on simulated devices give transformers' own greedy tokens of the real model.

Recompilation and whatever else the devices would refuse ends these servers: see tests/simulators.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.greedy import SHAPES, check_answers
from tests.servers import ServerFactory

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

TESTS = Path(__file__).parents[1]


def simulate(name: str, patch: pytest.MonkeyPatch) -> None:
    """From now on a vendor's packages are simulated ones, in all processes that are started."""
    paths = [str(TESTS / "simulators" / name), str(TESTS.parent)]
    patch.setenv("PYTHONPATH", os.pathsep.join(paths))


@pytest.mark.long
def test_neuron_compiles_a_model_and_serves_it(
    serve: ServerFactory, smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulate("neuron", monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    run = [sys.executable, "-m", "tgi_core", "neuron-export", str(smollm2), *SHAPES]
    subprocess.run(run, check=True, capture_output=True)
    with serve(str(smollm2), "--backend", "neuron", *SHAPES) as server:
        check_answers(server, smollm2)


def test_gaudi_records_its_graphs_and_serves(
    serve: ServerFactory, smollm2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulate("gaudi", monkeypatch)
    asked = ("--backend", "gaudi", *SHAPES, "--max-step-tokens", "32", "--cache-tokens", "256")
    with serve(str(smollm2), *asked) as server:
        check_answers(server, smollm2)


@pytest.mark.long
def test_xpu_serves_with_a_cpu_in_the_gpus_place(
    serve: ServerFactory, smollm2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulate("xpu", monkeypatch)
    with serve(str(smollm2), "--backend", "xpu-on-cpu", *SHAPES) as server:
        check_answers(server, smollm2)
