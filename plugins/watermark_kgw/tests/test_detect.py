"""`tgi watermark detect`: finds what the sampler marked, and nothing in other texts."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from string import ascii_letters

import numpy as np
import pytest
from tgi_plugin_watermark_kgw.detect import score_tokens
from tgi_plugin_watermark_kgw.green import GreenList
from tgi_plugin_watermark_kgw.plugin import tgi_adjustments
from tokenizers import Tokenizer

from tests.engines import LOAD, generate, no_progress
from tgi_core.builtin.queue_policies import FirstComeFirstServed
from tgi_core.contract import Request, SamplingParams, StopRule
from tgi_core.engine.step_engine import EngineLimits, StepEngine
from tgi_core.errors import UsageError
from tgi_core.testing.fake import FakeBackend, FakeShape
from tgi_core.testing.models import write_fake_model

VOCAB = 128
KEY = 12345


def engine_with(gamma=0.5, delta=2.0, key=KEY, limits=None, **shape):
    [watermark] = tgi_adjustments(gamma, delta, key)
    engine = StepEngine(
        FakeBackend(FakeShape(**shape)),
        FirstComeFirstServed(),
        limits,
        adjustments={watermark.name: watermark},
    )
    engine.start(LOAD, no_progress)
    return engine


def asked(count=6, marked=True, length=200, **sampling):
    adjustments = ("watermark",) if marked else ()
    return [
        Request(
            request_id=f"r{i}",
            prompt=(3 + i, 7, 11),
            sampling=SamplingParams(
                **{"temperature": 1.0, "seed": i, **sampling}, adjustments=adjustments
            ),
            stop=StopRule(max_new_tokens=length),
        )
        for i in range(count)
    ]


def test_a_marked_text_is_found_and_an_unmarked_one_is_not():
    marked = generate(engine_with(), asked())
    plain = generate(engine_with(), asked(marked=False))
    for tokens in marked.values():
        score = score_tokens(tokens, 0.5, KEY)
        assert score.z_score > 4 and score.p_value < 1e-4 and score.green_fraction > 0.6
    scores = [score_tokens(tokens, 0.5, KEY).z_score for tokens in plain.values()]
    assert max(scores) < 3 and abs(np.mean(scores)) < 1.5


def test_who_does_not_know_the_key_finds_nothing():
    tokens = generate(engine_with(), asked(1, length=400))["r0"]
    scores = [score_tokens(tokens, 0.5, key).z_score for key in range(20)]
    assert max(scores) < 4 < score_tokens(tokens, 0.5, KEY).z_score


def test_a_part_of_a_marked_text_is_found_too():
    tokens = generate(engine_with(delta=4.0), asked(1, length=300))["r0"]
    assert score_tokens(tokens[100:180], 0.5, KEY).z_score > 4


SHAPES = {
    "chunks of 7": {"limits": EngineLimits(max_chunk_tokens=7)},
    "two steps in flight": {"steps_in_flight": 2},
    "a small cache": {"cache_tokens": 512, "max_sequence_tokens": 512},
    "without a prefix cache": {"limits": EngineLimits(prefix_caching=False)},
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_a_mark_does_not_depend_on_company_preemption_or_order(shape):
    requests = asked(6) + [
        Request(request_id=f"p{i}", prompt=(9, i), stop=StopRule(max_new_tokens=50))
        for i in range(4)
    ]
    expected = {}
    for request in requests:
        expected |= generate(engine_with(), [request])
    engine = engine_with(**shape)
    assert generate(engine, requests, per_step=10) == expected
    if shape.get("cache_tokens"):
        assert engine.stats().preemptions > 0


def test_a_resumed_text_goes_on_with_the_same_mark():
    [request] = asked(1, length=40)
    whole = generate(engine_with(), [request])["r0"]
    for done in (1, 17, 39):
        resumed = Request(
            request_id="r0",
            prompt=request.prompt,
            resumed=tuple(whole[:done]),
            sampling=request.sampling,
            stop=request.stop,
        )
        assert whole[:done] + generate(engine_with(), [resumed])["r0"] == whole


def test_the_p_value_is_how_often_an_unmarked_text_looks_like_that():
    rng = random.Random(5)
    scores = [
        score_tokens([rng.randrange(5000) for _ in range(120)], 0.25, KEY) for _ in range(400)
    ]
    for level in (0.05, 0.2, 0.5):
        share = np.mean([score.p_value < level for score in scores])
        assert abs(share - level) < 4 * np.sqrt(level * (1 - level) / 400) + 0.03


def test_a_text_that_repeats_itself_shows_no_more_by_that():
    once = [5, 9, 17, 3, 88, 41, 2, 60, 77, 30, 12, 8, 99, 101, 55, 23, 64]
    assert score_tokens(once * 20, 0.5, KEY).tokens_scored == len(once)


def test_too_little_text_is_an_error_that_says_so():
    with pytest.raises(UsageError, match="4 different pairs"):
        score_tokens([1, 2, 3, 4, 5], 0.5, KEY)


def detect(*arguments, text=b""):
    return subprocess.run(
        [sys.executable, "-m", "tgi_core", "watermark", "detect", *map(str, arguments)],
        input=text,
        capture_output=True,
        timeout=60,
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder whose tokenizer has a token for each byte, and no others but special ones."""
    return write_fake_model(tmp_path_factory.mktemp("model"), vocab_size=260)


def marked_text(model, num_tokens=120):
    """Of green letters alone, as a model would write that knows nothing else."""
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    letters = {c: tokenizer.encode(c, add_special_tokens=False).ids[0] for c in ascii_letters}
    rng, green = random.Random(1), GreenList(0.5, KEY)
    text = ["a"]
    while len(text) < num_tokens:
        fitting = [c for c in letters if green.holds(letters[text[-1]], letters[c])]
        text.append(rng.choice(fitting))
    return "".join(text)


def test_the_command_tells_by_words_and_by_its_exit_status(model, tmp_path):
    text = marked_text(model)
    (tmp_path / "marked.txt").write_text(text)
    found = detect(model, tmp_path / "marked.txt", "--key", KEY)
    assert (found.returncode, found.stderr) == (0, b"")
    lines = dict(line.split(maxsplit=1) for line in found.stdout.decode().splitlines())
    assert lines["verdict"] == "marked" and float(lines["z-score"]) > 4
    other = detect(model, "--key", KEY + 1, "--json", text=text.encode())
    assert other.returncode == 1
    shown = json.loads(other.stdout)
    assert shown["is_marked"] is False and shown["z_score"] < 4 and shown["tokens_scored"] > 50
    assert 0.3 < shown["green_fraction"] < 0.7
    strict = detect(model, "--key", KEY, "--threshold", 1000, text=text.encode())
    assert strict.returncode == 1


@pytest.mark.parametrize(
    ("arguments", "text", "words"),
    [
        (["nowhere.txt"], b"", "nowhere.txt cannot be read"),
        ([], b"\xff\xfe" * 50, "no UTF-8"),
        ([], b"short", "give a longer text"),
        (["--gamma", "1"], b"", "--gamma 1.0 must be"),
        (["--key", "-1"], b"", "--key -1 must be"),
    ],
)
def test_what_cannot_be_judged_is_a_usage_error(model, arguments, text, words):
    ran = detect(model, *arguments, text=text)
    assert (ran.returncode, ran.stdout) == (2, b"")
    assert words in ran.stderr.decode()


def test_a_model_without_a_tokenizer_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    ran = detect(tmp_path, text=b"some text")
    assert ran.returncode != 0 and b"tokenizer" in ran.stderr
