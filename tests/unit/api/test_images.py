"""Images on the routes: found where TGI and OpenAI have them, and given to the engine in place."""

from __future__ import annotations

import base64
from dataclasses import replace
from io import BytesIO

import pytest
from PIL import Image

from tgi_core.contract import Feature
from tgi_core.errors import ValidationError
from tgi_core.images.layouts.llava_next import LlavaNextLayout
from tgi_core.images.prompt import ImageLimits, ImagePrompts
from tgi_core.text.chat import ChatTemplate

PARTS = (
    "{% for m in messages %}[{{ m.role }}]{% for part in m.content %}"
    "{{ '<image>' if part.type == 'image' else part.text }}"
    "{% endfor %}{% endfor %}[assistant]"
)
TEXTS = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"
SIZE = 10
"""Placeholders of a small square image."""


class Cats:
    """Satisfies Fetcher."""

    async def fetch(self, url):
        if "cat" not in url:
            raise ValidationError("Could not fetch image: it is no cat")
        return picture(4)


def picture(edge=5):
    buffer = BytesIO()
    Image.new("RGB", (edge, edge), (200, 30, 40)).save(buffer, "PNG")
    return buffer.getvalue()


def uri(data):
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def image_url(url):
    return {"type": "image_url", "image_url": {"url": url}}


@pytest.fixture
def see(server, seeing_tokenizer):
    """(source of the template, fetcher) -> the server with a model that takes images."""

    def make(source=PARTS, fetcher=None, **limits):
        layout = LlavaNextLayout(tile=28, patches=2, resolutions=((28, 28),))
        server.tokenizer = seeing_tokenizer
        model = server.service.model
        server.service.model = replace(
            model,
            tokenizer=seeing_tokenizer,
            limits=replace(model.limits, vocab_size=seeing_tokenizer.vocab_size),
            template=ChatTemplate(
                source,
                bos_token="<s>",
                eos_token="</s>",
                special_texts=[*seeing_tokenizer.special_texts, *layout.special_texts],
                image_marker=layout.marker,
            ),
            images=ImagePrompts(layout, seeing_tokenizer, ImageLimits(**limits), fetcher),
        )
        server.says("A cat")
        return server

    return make


def told(server):
    """What the engine got: the prompt with images as one sign each."""
    request = server.engine.last
    text = server.tokenizer.decode(request.prompt, skip_special_tokens=False)
    return text.replace("<image>" * SIZE, "#"), request.images


def test_markdown_in_a_prompt_is_an_image(see):
    server = see()
    reply = server.post("/generate", {"inputs": f"what is ![]({uri(picture())}) here?"})
    assert reply.status == 200, reply.body
    text, [image] = told(server)
    assert text == "<s>what is # here?"
    assert image.data == picture()
    assert image.spans == ((9, 9 + SIZE),)


def test_images_of_a_chat_stand_where_the_template_puts_them(see):
    for source in (PARTS, TEXTS):
        server = see(source)
        content = [
            {"type": "text", "text": "is "},
            image_url(uri(picture(4))),
            {"type": "text", "text": " like "},
            image_url(uri(picture(5))),
            {"type": "text", "text": "?"},
        ]
        messages = [{"role": "system", "content": "Look."}, {"role": "user", "content": content}]
        reply = server.post("/v1/chat/completions", {"messages": messages})
        assert reply.status == 200, reply.body
        text, images = told(server)
        assert text == "[system]Look.[user]is # like #?[assistant]"
        assert [image.data for image in images] == [picture(4), picture(5)]
        assert reply.json["usage"]["prompt_tokens"] == len(server.engine.last.prompt)


def test_text_that_spells_a_placeholder_is_text(see):
    server = see()
    content = [{"type": "text", "text": "<image> \ufdd1"}, image_url(uri(picture()))]
    reply = server.post(
        "/v1/chat/completions", {"messages": [{"role": "user", "content": content}]}
    )
    assert reply.status == 200, reply.body
    prompt, special = (
        server.engine.last.prompt,
        server.tokenizer.encode("<image>", add_special_tokens=False),
    )
    assert prompt.count(special[0]) == SIZE
    assert told(server)[0] == "[user]<image> #[assistant]"


def test_a_placeholder_in_a_raw_prompt_is_refused(see):
    for inputs in ("a <image> b", f"![]({uri(picture())}) <image>"):
        reply = see().post("/generate", {"inputs": inputs})
        assert reply.status == 422 and b"stand for parts" in reply.body


def test_choices_of_a_prompt_have_its_images(see):
    server = see()
    body = {"inputs": f"![]({uri(picture())})", "parameters": {"best_of": 2, "do_sample": True}}
    assert server.post("/generate", body).status == 200
    assert [len(one.request.images) for one in server.engine.generations] == [1, 1]


def test_tokenizing_shows_the_placeholders(see):
    server = see()
    tokens = server.post("/tokenize", {"inputs": f"a ![]({uri(picture())})"}).json
    assert [token["text"] for token in tokens] == ["", "a", " ", *["<image>"] * SIZE]
    messages = [{"role": "user", "content": [image_url(uri(picture()))]}]
    reply = server.post("/chat_tokenize", {"messages": messages}).json
    assert reply["templated_text"] == "[user]" + "<image>" * SIZE + "[assistant]"


def test_images_are_fetched_if_the_operator_says_so(see):
    server = see(fetcher=Cats())
    reply = server.post("/generate", {"inputs": "![](https://example.com/cat.png)"})
    assert reply.status == 200
    assert told(server)[1][0].data == picture(4)
    reply = server.post("/generate", {"inputs": "![](https://example.com/dog.png)"})
    assert reply.status == 422 and b"no cat" in reply.body
    messages = [{"role": "user", "content": [image_url("https://example.com/cat.png")]}]
    assert server.post("/v1/chat/completions", {"messages": messages}).status == 200


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("https://example.com/cat.png", "this server fetches none"),
        ("file:///etc/passwd", "invalid image content"),
        ("data:image/png;base64,AAAA", "invalid image"),
        ("data:image/png;base64,!", "base64 encoding is invalid"),
        (uri(picture(200)), "more than 30000 pixels"),
    ],
)
def test_a_bad_image_is_a_validation_error_on_every_route(see, source, says):
    server = see(max_pixels=30_000)
    reply = server.post("/generate", {"inputs": f"a ![]({source})"})
    assert reply.status == 422
    assert reply.json["error_type"] == "validation" and says in reply.json["error"]
    messages = [{"role": "user", "content": [image_url(source)]}]
    reply = server.post("/v1/chat/completions", {"messages": messages})
    assert reply.status == 422
    assert reply.json["error"]["type"] == "invalid_request_error"
    assert says in reply.json["error"]["message"]
    assert server.idle and not server.engine.generations


def test_the_number_of_images_is_bounded(see):
    server = see(max_images=2)
    one = f"![]({uri(picture())})"
    assert server.post("/generate", {"inputs": one * 2}).status == 200
    reply = server.post("/generate", {"inputs": one * 3})
    assert reply.status == 422 and b"at most 2 images" in reply.body


def test_only_as_many_images_stand_side_by_side_as_the_device_takes(see):
    server = see(max_adjacent=2)
    one = f"![]({uri(picture())})"
    for inputs in (one * 2, f"{one * 2} and {one * 2} and {one}"):
        assert server.post("/generate", {"inputs": inputs}).status == 200
    reply = server.post("/generate", {"inputs": f"{one} and {one * 3}"})
    assert reply.status == 422 and reply.json["error_type"] == "validation"
    assert "at most 2 images side by side. Given: 3; put text between" in reply.json["error"]
    assert len(server.engine.generations) == 2


def test_placeholders_count_towards_the_limits(see):
    reply = see().post("/generate", {"inputs": f"![]({uri(picture())})" * 10})
    assert reply.status == 422 and b"101" in reply.body


@pytest.mark.parametrize("cut", [5, 13])
def test_truncation_never_leaves_a_part_of_an_image(see, cut):
    body = {"inputs": f"![]({uri(picture())}) abc", "parameters": {"truncate": cut}}
    reply = see().post("/generate", body)
    assert reply.status == 422 and b"a part of an image" in reply.body


def test_truncation_drops_whole_images_and_moves_the_others(see):
    server = see()
    inputs = f"![]({uri(picture(4))})xyz![]({uri(picture(5))})abc"
    for cut, spans in ((3, []), (13, [(0, 10)]), (15, [(2, 12)]), (26, [(0, 10), (13, 23)])):
        reply = server.post("/generate", {"inputs": inputs, "parameters": {"truncate": cut}})
        assert reply.status == 200
        assert [image.spans[0] for image in server.engine.last.images] == spans


def test_a_template_that_leaves_an_image_out_is_an_error(see):
    server = see("{% for m in messages %}{{ m.role }}{% endfor %}")
    messages = [{"role": "user", "content": [image_url(uri(picture()))]}]
    reply = server.post("/v1/chat/completions", {"messages": messages})
    assert reply.status == 422 and b"0 of 1 images" in reply.body


def test_a_text_model_refuses_images_by_name_and_leaves_markdown_alone(server):
    messages = [{"role": "user", "content": [image_url(uri(picture()))]}]
    reply = server.post("/v1/chat/completions", {"messages": messages})
    assert reply.status == 422
    assert b"image modality is not supported" in reply.body
    assert server.post("/generate", {"inputs": "![](x)"}).status == 200
    assert "![](x)" in server.tokenizer.decode(server.engine.last.prompt, skip_special_tokens=False)


def test_models_and_info_tell_of_images(see, server):
    assert "architecture" not in server.get("/v1/models").json["data"][0]
    assert "input_modalities" not in server.get("/info").json
    see()
    [model] = server.get("/v1/models").json["data"]
    assert model["architecture"]["input_modalities"] == ["text", "image"]
    assert server.get("/info").json["input_modalities"] == ["text", "image"]
    assert Feature.IMAGE.value == "images"


def test_an_image_may_be_given_as_a_bare_address(see):
    server = see()
    part = {"type": "image_url", "image_url": uri(picture())}
    reply = server.post("/v1/chat/completions", {"messages": [{"role": "user", "content": [part]}]})
    assert reply.status == 200
    for part in ({"type": "image_url"}, {"type": "input_audio"}, {"type": "text"}):
        messages = [{"role": "user", "content": [part]}]
        assert server.post("/v1/chat/completions", {"messages": messages}).status == 422
