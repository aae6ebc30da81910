"""`tgi quantize` finds the backend that can and hands it the model and the wish."""

from pathlib import Path

import pytest

from tgi_core.cli.app import main
from tgi_core.cli.launcher import server
from tgi_core.contract import BackendSpec, ModelFiles, Probe, Progress, QuantizeWish, Verdict
from tgi_core.plugin.manager import Backends, Plugins


def spec(name: str, done: list[tuple[object, ...]] | None) -> BackendSpec:
    def quantize(model: ModelFiles, target: Path, wish: QuantizeWish, progress: Progress) -> None:
        assert done is not None
        progress("quantizing", 1, 1)
        done.append((name, model.path, target, wish))

    return BackendSpec(
        name=name,
        contract=(1, 0),
        probe=lambda: Probe(available=True),
        accepts=lambda files: Verdict(True),
        create=lambda: None,  # type: ignore[arg-type, return-value]
        priority=5 if done is None else 0,
        quantize=None if done is None else quantize,
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


def test_the_backend_that_quantizes_gets_the_model_and_the_wish(model, monkeypatch, capsys):
    done: list[tuple[object, ...]] = []
    install(monkeypatch, spec("serves", None), spec("quantizes", done))
    flags = ["--bits", "8", "--groupsize", "64", "--act-order", "--no-sym", "--text", "a.txt"]
    assert main(["quantize", str(model), "out", *flags, "--windows", "3"]) == 0
    wish = QuantizeWish(
        bits=8,
        group_size=64,
        symmetric=False,
        orders=True,
        texts=(Path("a.txt"),),
        num_windows=3,
    )
    assert done == [("quantizes", model, Path("out"), wish)]
    assert "tgi serve out" in capsys.readouterr().out


def test_tgis_command_has_tgis_flags_and_defaults(model, monkeypatch, log):
    done: list[tuple[object, ...]] = []
    install(monkeypatch, spec("quantizes", done))
    gptq = ["--groupsize", "128", "--act-order", "--percdamp", "0.02"]
    assert server(["quantize", str(model), "out", *gptq]) == 0
    assert server(["quantize", str(model), "out", "--bits", "8", "--sym"]) == 0
    first = QuantizeWish(group_size=128, orders=True, damping=0.02, symmetric=False)
    second = QuantizeWish(bits=8, symmetric=True)
    assert [each[3] for each in done] == [first, second]
    assert "serve out, without --quantize" in log()


@pytest.mark.parametrize(
    ("flags", "status", "said"),
    [
        (["--backend", "serves"], 2, "makes no GPTQ checkpoints"),
        ([], 78, "tgi-core[cpu]"),
        (["--groupsize", "0"], 2, "--groupsize"),
        (["--percdamp", "0"], 2, "--percdamp"),
        (["--windows", "0"], 2, "--windows"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(flags, status, said, model, monkeypatch, capsys):
    install(monkeypatch, spec("serves", None))
    assert main(["quantize", str(model), "out", *flags]) == status
    assert said in capsys.readouterr().err
