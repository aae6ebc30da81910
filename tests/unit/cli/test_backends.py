import json

from tgi_core.cli.app import main
from tgi_core.plugin.catalog import PluginKind, find
from tgi_core.plugin.report import report_path

REPORT = """{
 "level": "bronze", "backend": "good", "distribution": "dist-good", "version": "1.4",
 "contract": [1, 0], "core": "0.1.0", "date": "2026-11-26", "device": "npu:0",
 "simulator": "a double", "model": "tiny", "runtime": ["Python 3.11"],
 "promises": [{"group": "cache", "name": "order_matters", "outcome": "kept"}]
}"""
OURS = [
    part
    for name in (
        "torch",
        "torch-encoder",
        "llamacpp",
        "openvino",
        "cuda",
        "rocm",
        "xpu",
        "neuron",
        "gaudi",
        "xla",
        "trtllm",
    )
    for part in ("--disable-plugin", name)
]


def test_the_table_has_a_line_for_each_backend(install, capsys):
    install.backend("good")
    install("tgi.backends", "broken", "import no_such_library")
    assert main(["backends", *OURS]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["NAME", "VERSION", "CONFORMANCE", "AVAILABLE", "DEVICES", "NOTES"]
    table = {line.split()[0]: line for line in lines}
    assert list(table) == ["broken", "fake", "good"]
    assert table["good"].split()[1:4] == ["1.5", "-", "yes"]
    assert "a made-up device" in table["good"]
    assert table["broken"].split()[1:4] == ["1.5", "-", "no"]
    assert "no_such_library" in table["broken"]


def test_a_probe_that_finds_nothing_says_why(install, capsys):
    install(
        "tgi.backends",
        "absent",
        """
        from tgi_core.contract import BackendSpec, Probe, Verdict
        from tgi_core.plugin import hookimpl

        @hookimpl
        def tgi_backend():
            return BackendSpec(
                name="absent",
                contract=(1, 0),
                probe=lambda: Probe(available=False, reason="no driver", notes=("update it",)),
                accepts=lambda files: Verdict(True),
                create=object,
            )
        """,
    )
    main(["backends", *OURS])
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("absent")]
    assert line.split()[3] == "no"
    assert line.endswith("no driver; update it")


def test_a_report_that_came_with_a_backend_is_told_in_a_word(install, capsys):
    install.backend("good")
    report_path(find(PluginKind.BACKEND, "good")).write_text(REPORT)
    main(["backends", *OURS])
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("good")]
    assert line.split()[1:4] == ["1.5", "bronze", "(simulator),"]
    main(["backends", "--json", *OURS])
    rows = {row["name"]: row["conformance"] for row in json.loads(capsys.readouterr().out)}
    assert rows == {"good": "bronze (simulator), of 1.4", "fake": ""}


def test_json_says_the_same(install, capsys):
    install.backend("good")
    assert main(["backends", "--json", *OURS]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["good"]["available"] is True
    assert rows["good"]["devices"] == ["a made-up device"]
    assert rows["good"]["version"] == "1.5"
