"""Throw-away distributions, so that plugins are found as in real life; and a log to configure."""

import importlib
import sys
from pathlib import Path
from textwrap import dedent

import pytest

BACKEND = """
    from tgi_core.contract import BackendSpec, Probe, Verdict
    from tgi_core.plugin import hookimpl
    from tgi_core.testing.fake import FakeBackend

    @hookimpl
    def tgi_backend():
        return BackendSpec(
            name={name!r},
            contract={contract!r},
            probe=lambda: Probe(available=True, devices=("a made-up device",)),
            accepts=lambda files: Verdict(True),
            create=FakeBackend,
        )
"""


class Installer:
    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._directory = directory
        self._monkeypatch = monkeypatch
        self.modules: list[str] = []

    def __call__(self, group: str, name: str, source: str, distribution: str = "") -> None:
        """Writes a module and the metadata of a distribution that offers it as an entry point."""
        distribution = distribution or f"dist-{name}"
        module = f"installed_for_test_{distribution}_{len(self.modules)}".replace("-", "_")
        self.modules.append(module)
        site = self._directory / module
        info = site / f"{distribution.replace('-', '_')}-1.5.dist-info"
        info.mkdir(parents=True)
        (site / f"{module}.py").write_text(dedent(source))
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.5\n"
        )
        (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {module}\n")
        self._monkeypatch.syspath_prepend(str(site))
        importlib.invalidate_caches()

    def backend(
        self, name: str, *, says: str = "", contract: object = (1, 0), distribution: str = ""
    ) -> None:
        """A backend that works, except where the arguments say otherwise."""
        source = BACKEND.format(name=says or name, contract=contract)
        self("tgi.backends", name, source, distribution)

    def plugin(self, name: str, source: str, distribution: str = "") -> None:
        """A module in the group of plugins, with `hookimpl` imported."""
        head = "from tgi_core.plugin import hookimpl\n"
        self("tgi.plugins", name, head + dedent(source), distribution)


@pytest.fixture
def install(tmp_path, monkeypatch):
    installer = Installer(tmp_path / "site", monkeypatch)
    yield installer
    for module in installer.modules:
        sys.modules.pop(module, None)


@pytest.fixture
def log(capsys):
    """What the process writes to standard error."""
    return lambda: capsys.readouterr().err
