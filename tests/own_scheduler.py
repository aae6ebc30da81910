"""A backend that schedules by itself, as vendors' runtimes do, and its plugin.

In truth core's own engine over the fake device; but core knows it by the engine contract alone.
"""

from __future__ import annotations

import os
from pathlib import Path

from tgi_core.builtin.queue_policies import FirstComeFirstServed
from tgi_core.config.sources import environment
from tgi_core.contract import BackendKind, BackendSpec, Probe, Verdict
from tgi_core.engine.step_engine import StepEngine
from tgi_core.plugin import hookimpl
from tgi_core.testing.fake import FakeBackend

NAME = "own-scheduler"


@hookimpl
def tgi_backend() -> BackendSpec:
    """Never chosen by itself."""
    return BackendSpec(
        name=NAME,
        contract=(1, 0),
        kind=BackendKind.ENGINE,
        probe=lambda: Probe(available=True),
        accepts=lambda files: Verdict(False, "it is for tests"),
        create=lambda: StepEngine(FakeBackend(), FirstComeFirstServed()),
    )


def environment_with_it(site: Path) -> dict[str, str]:
    """For a process that finds it installed; `site` is a new folder."""
    info = site / "own_scheduler-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own-scheduler\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[tgi.backends]\n{NAME} = tests.own_scheduler\n")
    root = str(Path(__file__).parents[1])
    return {**environment(), "PYTHONPATH": os.pathsep.join((str(site), root))}
