import subprocess
import sys

import pytest

from tgi_core import __version__
from tgi_core.cli.launcher import launcher, server


@pytest.mark.parametrize("program", [launcher, server])
def test_version_and_help(program, capsys):
    for flag, words in (("--version", __version__), ("--help", "usage: text-generation-")):
        with pytest.raises(SystemExit) as ended:
            program([flag])
        assert ended.value.code == 0
        assert words in capsys.readouterr().out


def test_help_says_what_has_no_effect(capsys):
    with pytest.raises(SystemExit):
        launcher(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "--waiting-served-ratio NUMBER no effect: prompts run in the same steps" in shown


@pytest.mark.parametrize("arguments", [["--no-such-flag"], ["--max-input", "5"], ["stray"]])
def test_what_is_unknown_is_a_usage_error(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        launcher(arguments)
    assert ended.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_a_bad_value_is_a_usage_error(capsys):
    assert launcher(["--port", "x"]) == 2
    assert "error: --port 'x' must be a whole number" in capsys.readouterr().err


def test_arguments_that_contradict_each_other_end_as_in_tgi(capsys):
    assert launcher(["--max-input-tokens", "5", "--max-total-tokens", "5"]) == 1
    assert capsys.readouterr().err == (
        'Error: ArgumentValidation("`max_input_tokens`(5) must be < `max_total_tokens`(5)")\n'
    )
    assert launcher(["--sharded", "true"]) == 1
    assert capsys.readouterr().err.startswith("Error: NotEnoughCUDADevices(")


def test_what_quantize_cannot_do_is_refused_by_name(capsys):
    assert server(["quantize", "org/m", "out", "--upload-to-model-id", "org/q"]) == 2
    assert "--upload-to-model-id" in capsys.readouterr().err
    assert server(["quantize", "org/m", "out", "--groupsize", "0"]) == 2
    assert "--groupsize" in capsys.readouterr().err


def test_a_model_that_is_here_needs_no_download(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    code = "import sys; from tgi_core.cli.launcher import server; sys.exit(server())"
    ran = subprocess.run(
        [sys.executable, "-c", code, "download-weights", str(tmp_path), "--json-output"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0
    assert f"Successfully downloaded weights for {tmp_path}" in ran.stderr
