"""The command fetches in a process of its own: the hub's library reads its settings once."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.hub import COMMIT, TOKEN, Hub, hub_of
from tgi_core.builtin.hub_source import pipeline_tag, tgi_model_source

WEIGHTS = bytes(range(256)) * 4096
FILES = {
    "config.json": b"{}",
    "tokenizer.json": b'{"a": 1}',
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"a pickle",
    "consolidated.safetensors": WEIGHTS,
    "onnx/model.onnx": b"another format",
    "README.md": b"---\nlicense: mit\npipeline_tag: image-text-to-text\n---\nwords",
    "tiny-Q8-00001-of-00002.gguf": b"GGUF first",
    "tiny-Q8-00002-of-00002.gguf": b"GGUF second",
}


@pytest.fixture
def hub():
    with hub_of(FILES) as running:
        yield running


class Fetched:
    def __init__(self, hub: Hub, home: Path, *arguments: str, **variables: str) -> None:
        ran = subprocess.run(
            [sys.executable, "-m", "tgi_core", "download", *arguments],
            env=hub.environment(home, **variables),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert "Traceback" not in ran.stderr
        self.status, self.words = ran.returncode, ran.stderr
        self.path = Path(ran.stdout.strip())


def test_what_a_model_needs_is_fetched_into_the_hubs_own_cache(hub, tmp_path):
    got = Fetched(hub, tmp_path, "org/tiny")
    assert got.status == 0, got.words
    assert got.path == tmp_path / "hub" / "models--org--tiny" / "snapshots" / COMMIT
    assert {file.name for file in got.path.iterdir()} == {
        "config.json",
        "tokenizer.json",
        "model.safetensors",
        "README.md",
    }
    assert (got.path / "model.safetensors").read_bytes() == WEIGHTS


def test_a_second_time_nothing_is_fetched_and_offline_nothing_is_asked(hub, tmp_path):
    assert Fetched(hub, tmp_path, "org/tiny").status == 0
    hub.requests.clear()
    assert Fetched(hub, tmp_path, "org/tiny").status == 0
    assert "model.safetensors" not in hub.requests
    hub.requests.clear()
    assert Fetched(hub, tmp_path, "org/tiny", HF_HUB_OFFLINE="1").status == 0
    assert not hub.requests


def test_a_hub_that_is_down_does_no_harm_to_what_is_cached(hub, tmp_path):
    assert Fetched(hub, tmp_path, "org/tiny").status == 0
    hub.fault = "down"
    assert Fetched(hub, tmp_path, "org/tiny").status == 0


def test_a_revision_is_respected(hub, tmp_path):
    assert Fetched(hub, tmp_path, "org/tiny", "--revision", "v1").status == 0
    got = Fetched(hub, tmp_path, "org/tiny", "--revision", "v9")
    assert got.status == 66 and "'v9'" in got.words and "--revision" in got.words


def test_a_truncated_download_goes_on_where_it_stopped(hub, tmp_path):
    # the library writes pieces of 10 MB; less is fetched again
    hub.files["model.safetensors"] = weights = WEIGHTS * 25
    hub.cuts = 1
    got = Fetched(hub, tmp_path, "org/tiny")
    assert got.status == 0, got.words
    assert (got.path / "model.safetensors").read_bytes() == weights
    assert len(hub.ranges) == 1


@pytest.mark.parametrize(
    ("fault", "model", "status", "words"),
    [
        ("", "org/absent", 66, "org/absent"),
        ("private", "org/tiny", 66, "HF_TOKEN"),
        ("gated", "org/tiny", 77, "gated"),
        ("expired", "org/tiny", 77, "HF_TOKEN is wrong"),
        ("forbidden", "org/tiny", 77, "status 403"),
        ("down", "org/tiny", 69, "503"),
        ("", "org/tiny/absent.gguf", 66, "absent.gguf"),
    ],
)
def test_what_cannot_be_had_says_why(hub, tmp_path, fault, model, status, words):
    hub.fault = fault
    got = Fetched(hub, tmp_path, model)
    assert got.status == status and words in got.words


@pytest.mark.parametrize("fault", ["private", "gated"])
def test_a_token_opens_what_is_closed(hub, tmp_path, fault):
    hub.fault = fault
    assert Fetched(hub, tmp_path, "org/tiny", HF_TOKEN="hf_other").status in (66, 77)
    assert Fetched(hub, tmp_path, "org/tiny", HF_TOKEN=TOKEN).status == 0


def test_the_tokens_older_name_is_known(hub, tmp_path):
    hub.fault = "private"
    assert Fetched(hub, tmp_path, "org/tiny", HUGGING_FACE_HUB_TOKEN=TOKEN).status == 0


def test_the_hub_learns_who_asks(hub, tmp_path):
    assert Fetched(hub, tmp_path, "org/tiny", HF_HUB_USER_AGENT_ORIGIN="a:container").status == 0
    assert any("origin/a:container" in agent for agent in hub.agents)


def test_offline_without_the_model_is_said(hub, tmp_path):
    got = Fetched(hub, tmp_path, "org/tiny", HF_HUB_OFFLINE="1")
    assert got.status == 69 and "HF_HUB_OFFLINE" in got.words
    assert not hub.requests


def test_a_hub_that_does_not_exist_is_unavailable(hub, tmp_path):
    got = Fetched(hub, tmp_path, "org/tiny", HF_ENDPOINT="http://127.0.0.1:1")
    assert got.status == 69 and "Try again" in got.words


def test_a_cache_that_cannot_be_written(hub, tmp_path):
    (tmp_path / "file").write_text("no folder")
    got = Fetched(hub, tmp_path, "org/tiny", HF_HUB_CACHE=str(tmp_path / "file" / "cache"))
    assert got.status == 73 and "HF_HUB_CACHE" in got.words


def test_all_parts_of_a_gguf_are_fetched(hub, tmp_path):
    got = Fetched(hub, tmp_path, "org/tiny/tiny-Q8-00001-of-00002.gguf")
    assert got.status == 0, got.words
    assert got.path.read_bytes() == b"GGUF first"
    assert {file.name for file in got.path.parent.iterdir()} == {
        "tiny-Q8-00001-of-00002.gguf",
        "tiny-Q8-00002-of-00002.gguf",
        "README.md",
    }


@pytest.mark.parametrize(
    ("card", "tag"),
    [
        ("---\nlicense: mit\npipeline_tag: text-generation\n---\n# Model", "text-generation"),
        ("---\npipeline_tag: 'image-text-to-text'  # or so\n---\n", "image-text-to-text"),
        ('---\r\npipeline_tag: "text2text-generation"\r\n---\r\n', "text2text-generation"),
        ("---\nlicense: mit\n---\npipeline_tag: text-generation\n", None),
        ("---\nother:\n  pipeline_tag: text-generation\n---\n", None),
        ("# Model\npipeline_tag: text-generation\n", None),
        ("---\npipeline_tag:\n---\n", None),
        ("", None),
    ],
)
def test_a_card_says_at_its_head_what_a_model_is_for(tmp_path, card, tag):
    path = tmp_path / "README.md"
    path.write_bytes(card.encode())
    assert pipeline_tag(path) == tag


def test_a_model_without_a_card_says_nothing(tmp_path):
    assert pipeline_tag(tmp_path / "README.md") is None


@pytest.mark.parametrize("reference", ["s3://bucket/model", "a/b/c", "a b", "-x", "../up/x", ""])
def test_what_is_no_name_on_the_hub_is_left_to_others(reference):
    assert tgi_model_source(reference, None) is None
