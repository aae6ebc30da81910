"""Images of a server as a user starts it: over HTTP, through killed engines, on a real tower."""

from __future__ import annotations

import base64
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import tokenizers

from tests.e2e.test_server import streams
from tests.servers import Server, ServerFactory
from tgi_core.testing.models import write_fake_model

SIZE = 10
"""Placeholders of a small square image in the fake model."""


def uri(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def picture(seed: int) -> bytes:
    buffer = BytesIO()
    PIL.Image.new("RGB", (20, 20), (seed, 2 * seed, 30)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def fake_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whose files say that it takes images."""
    folder = write_fake_model(tmp_path_factory.mktemp("fake"))
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens(["<image>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "llava_next",
        "vocab_size": tokenizer.get_vocab_size(),
        "vision_config": {"image_size": 28, "patch_size": 14},
        "image_grid_pinpoints": [[28, 28]],
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


FAKE = ("--backend", "fake", "--backend-option", "images=1")


def test_streams_with_images_survive_killed_engines(serve: ServerFactory, fake_model: Path) -> None:
    wanted: list[dict[str, Any]] = [
        {
            "inputs": f"Story {i} of ![]({uri(picture(i % 3))}), told",
            "parameters": {"max_new_tokens": 1000, "do_sample": True, "seed": i},
        }
        for i in range(9)
    ]
    with serve(str(fake_model), *FAKE) as server:
        undisturbed = streams(server, wanted)
        assert streams(server, wanted, kills=2) == undisturbed
        info = json.loads(server.get("/info")[1])
        assert info["input_modalities"] == ["text", "image"]


def test_bad_images_fail_alone(serve: ServerFactory, fake_model: Path) -> None:
    with serve(str(fake_model), *FAKE, "--max-images", "2") as server:

        def ask(*sources: str) -> tuple[int, dict[str, Any]]:
            images = "".join(f"![]({source})" for source in sources)
            body = {"inputs": f"{images}So:", "parameters": {"max_new_tokens": 5}}
            status, answer = server.post("/generate", body)
            return status, json.loads(answer)

        good = ask(uri(picture(1)))
        assert good[0] == 200
        for sources, says in (
            ((uri(picture(1)[:20]),), "invalid image"),
            ((uri(b"bad"),), "invalid image"),
            (("http://127.0.0.1/a.png",), "this server fetches none"),
            ((uri(picture(1)),) * 3, "at most 2 images"),
        ):
            status, answer = ask(*sources)
            assert (status, answer["error_type"]) == (422, "validation"), answer
            assert says in answer["error"]
        assert ask(uri(picture(1))) == good


def test_a_server_that_fetches_still_reaches_nothing_within(
    serve: ServerFactory, fake_model: Path
) -> None:
    with serve(str(fake_model), *FAKE, "--image-fetch", "*") as server:
        for url in ("https://localhost/a", "https://127.0.0.1/a", "https://169.254.169.254/a"):
            status, answer = server.post("/generate", {"inputs": f"![]({url})"})
            assert status == 422 and b"Could not fetch image" in answer


@pytest.mark.slow
@pytest.mark.parametrize(
    "family",
    [
        "llava_next",
        *(
            pytest.param(family, marks=pytest.mark.long)
            for family in ("qwen2_vl", "mllama", "idefics")
        ),
    ],
)
def test_answers_are_those_of_transformers(
    family: str, serve: ServerFactory, tmp_path: Path
) -> None:
    from tests.seeing import make_seeing, png
    from tests.vision import fast_tokenizer  # imports torch

    model = make_seeing(tmp_path / "model", family)
    bare, small, large = model.family.bare, png(21, 15), png(75, 33)
    tokenizer = fast_tokenizer()

    def tokens(server: Server, text: str, files: list[bytes]) -> list[int]:
        for file in files:
            text = text.replace(bare, f"![]({uri(file)})", 1)
        parameters = {"max_new_tokens": 8, "details": True}
        status, answer = server.post("/generate", {"inputs": text, "parameters": parameters})
        assert status == 200, answer
        return [token["id"] for token in json.loads(answer)["details"]["tokens"]]

    asked: list[tuple[str, list[bytes]]] = [
        (f"look: {bare} what?", [small]),
        (f"{bare} or {bare}?", [large, small]),
        ("no image", []),
        (f"{bare} or {bare}?", [large, small]),
    ]
    flags = ("--backend", "torch", "--dtype", "float32", "--cache-tokens", "2048")
    with serve(str(model.folder), *flags) as server:
        for text, files in asked:
            expected = model.generate(text, files, 8)
            end = tokenizer.eos_token_id
            if end in expected:
                expected = expected[: expected.index(end) + 1]
            assert tokens(server, text, files) == expected
        if model.family.reads_all:
            return  # its processor begins any text anew, be it a template's
        content = [
            {"type": "text", "text": "what is "},
            {"type": "image_url", "image_url": {"url": uri(large)}},
        ]
        body = {"messages": [{"role": "user", "content": content}], "max_tokens": 8}
        status, answer = server.post("/v1/chat/completions", body | {"temperature": 0})
        assert status == 200, answer
        prompt = f"<s>[user] what is {bare}\n[assistant] "
        usage = json.loads(answer)["usage"]
        ids = model.prompt_ids(prompt, [large], add_special_tokens=False)
        assert usage["prompt_tokens"] == len(ids)
