"""`tgi conformance`: what it says of a backend that keeps its word, and of one that does not."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers

from tgi_core import __version__
from tgi_core.cli.app import main
from tgi_core.plugin.report import Level, Outcome, read_report
from tgi_core.testing.recorder import Recorder
from tgi_core.testing.tiny_llama import TinyLlama

OWN_TESTS = """
import pytest
from tgi_core.contract import LoadRequest, ModelFiles, ModelFormat
from tgi_core.testing.conformance import BackendConformance

def test_of_the_authors_own():
    pass

@pytest.mark.slow
class TestFake(BackendConformance):
    module = "tgi_core.testing.fake"
    package = "tgi_core.testing.fake"

    @pytest.fixture(scope="class")
    @classmethod
    def load_request(cls, tmp_path_factory):
        path = tmp_path_factory.mktemp("model")
        model = ModelFiles(reference="/somewhere/toy", path=path, format=ModelFormat.OTHER)
        sizes = dict(vocab_size=96, cache_tokens=512, max_sequences=8, max_rows=5)
        sizes |= dict(max_step_tokens=80, max_sequence_tokens=120)
        return LoadRequest(model=model, options={name: str(size) for name, size in sizes.items()})

    @pytest.fixture(scope="class")
    @classmethod
    def adapters(cls, tmp_path_factory):
        pytest.skip("no adapters are given")
"""


def test_own_tests_of_the_kit_make_a_report(tmp_path: Path, capsys):
    tests, output = tmp_path / "test_own.py", tmp_path / "report.json"
    tests.write_text(OWN_TESTS)
    everyday = '[pytest]\naddopts = -m "not slow"\nmarkers = slow'
    (tmp_path / "pytest.ini").write_text(everyday)
    command = ["conformance", "--backend", "fake", "--tests", str(tests), "--output", str(output)]
    assert main([*command, "--simulator", "a double"]) == 0
    report = read_report(output)
    assert report.level is Level.BRONZE  # nobody told the logits of another implementation
    assert (report.backend, report.distribution, report.version) == (
        "fake",
        "tgi-core",
        __version__,
    )
    assert (report.model, report.simulator) == ("toy", "a double")
    assert report.device and report.runtime[0].startswith("Python 3.")
    found = {promise.name: promise for promise in report.promises}
    assert found["decode_equals_prefill_of_the_same_tokens"].outcome is Outcome.KEPT
    assert found["adapter_changes_the_logits"].outcome is Outcome.UNPROVED
    assert found["an_image_changes_the_logits"].outcome is Outcome.EXCLUDED
    assert "modalities" in found["an_image_changes_the_logits"].why
    assert "of_the_authors_own" not in found
    said = capsys.readouterr().out
    assert "fake (tgi-core 0.1.0): bronze" in said
    assert "excluded  images: an image changes the logits (capabilities.modalities" in said


def test_a_broken_promise_is_told_with_how_and_fails_the_command(tmp_path: Path, capsys):
    """The fake is no Llama, which the tiny Llama's logits bring to light."""
    output = tmp_path / "report.json"
    assert main(["conformance", "--backend", "fake", "--output", str(output)]) == 1
    report = read_report(output)
    assert report.level is Level.NONE
    [broken] = [one for one in report.promises if one.group == "reference"]
    assert broken.outcome is Outcome.BROKEN and broken.why
    assert "broken    reference: logits equal the reference" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--backend", "nobody"], "no backend named 'nobody'"),
        (["--backend", "fake", "--backend-option", "x"], "KEY=VALUE"),
        (["--backend", "fake", "--tests", "t", "--model", "m"], "leave out --model"),
        (["--backend", "fake", "--model", "nowhere/at/all"], "nowhere/at/all"),
        (["--backend", "trtllm"], "which inherit EngineConformance"),
        (["--backend", "fake", "--tests", "no-such-file.py"], "no promise of fake was looked at"),
    ],
)
def test_what_cannot_be_examined_is_refused(arguments, words, capsys):
    assert main(["conformance", *arguments]) > 0
    assert words in capsys.readouterr().err


def test_the_worst_case_of_a_promise_tells():
    """A class that keeps it does not hide another one that breaks it."""
    recorder = Recorder()
    for outcome in (Outcome.EXCLUDED, Outcome.KEPT, Outcome.BROKEN, Outcome.KEPT):
        recorder._note(SimpleNamespace(group="cache", name="one", outcome=outcome))
    [promise] = recorder.promises
    assert promise.outcome is Outcome.BROKEN


def test_the_tiny_llama_computes_what_transformers_computes(tmp_path: Path):
    model = TinyLlama()
    tokens = np.random.default_rng(1).integers(0, 512, 50).tolist()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        model.write(tmp_path), dtype=torch.float32
    )
    with torch.inference_mode():
        told = theirs(torch.tensor([tokens]), output_hidden_states=True)
    np.testing.assert_allclose(model.logits(tokens), told.logits[0], atol=5e-5)
    np.testing.assert_allclose(model.embedding(tokens), told.hidden_states[-1][0, -1], atol=5e-5)
