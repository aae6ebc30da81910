"""`tgi convert` finds the backend that works ahead of time and hands it the model."""

from pathlib import Path

import pytest

from tgi_core.cli.app import main
from tgi_core.contract import BackendSpec, ModelFiles, Probe, Progress, Verdict
from tgi_core.plugin.manager import Backends, Plugins


def spec(name: str, done: list[tuple[object, ...]] | None) -> BackendSpec:
    def convert(model: ModelFiles, target: Path, quantize: str | None, progress: Progress) -> None:
        assert done is not None
        progress("converting", 1, 1)
        done.append((name, model.path, target, quantize))

    return BackendSpec(
        name=name,
        contract=(1, 0),
        probe=lambda: Probe(available=True),
        accepts=lambda files: Verdict(True),
        create=lambda: None,  # type: ignore[arg-type, return-value]
        priority=5 if done is None else 0,
        convert=None if done is None else convert,
    )


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


def install(monkeypatch: pytest.MonkeyPatch, *specs: BackendSpec) -> None:
    found = Backends(specs={each.name: each for each in specs}, failures={})
    monkeypatch.setattr(Plugins, "load_plugins", lambda self: None)
    monkeypatch.setattr(Plugins, "load_all_backends", lambda self: found)
    monkeypatch.setattr(Plugins, "load_backend", lambda self, name: found.specs[name])


def test_the_backend_that_converts_gets_the_model(model, monkeypatch, capsys):
    done: list[tuple[object, ...]] = []
    install(monkeypatch, spec("serves", None), spec("converts", done))
    assert main(["convert", str(model), str(model / "out"), "--quantize", "int8"]) == 0
    assert done == [("converts", model, model / "out", "int8")]
    assert f"tgi serve {model / 'out'}" in capsys.readouterr().out


def test_a_backend_that_converts_nothing_says_so(model, monkeypatch, capsys):
    install(monkeypatch, spec("serves", None))
    assert main(["convert", str(model), "out", "--backend", "serves"]) == 2
    assert "serves models as they are" in capsys.readouterr().err


def test_without_any_such_backend_the_error_says_what_to_install(model, monkeypatch, capsys):
    install(monkeypatch, spec("serves", None))
    assert main(["convert", str(model), "out"]) == 78
    assert "tgi-core[cpu]" in capsys.readouterr().err
