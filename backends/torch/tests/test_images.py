"""Models that take images compute what transformers computes: prompts written by our own layouts,
in batches, in chunks, with images from the cache and after preemption.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from io import BytesIO

import numpy as np
import PIL.Image
import pytest

from tests.families import request_for
from tests.image_requests import (
    MANY,
    NUM,
    TOKENIZER,
    conversations,
    prompts_of,
    request_of,
    run,
)
from tests.seeing import Seeing, make_seeing, png
from tests.vision import FAMILIES
from tgi_core.contract import (
    Feature,
    LoadRequest,
    Modality,
    RequestFailed,
)
from tgi_core.engine.limits import EngineLimits
from tgi_core.errors import BadImage, BadModel, ValidationError
from tgi_core.images.layouts import Size, layout_of
from tgi_core.images.layouts.llava_next import LlavaNextLayout
from tgi_core.images.picture import look_at
from tgi_core.testing.conformance.images import ImagePromises
from tgi_core.text.chat import ChatTemplate, Message
from tgi_core.text.plain import IMAGE_MARK, encode

SHAPES = [(40, 30), (28, 28), (9, 61), (120, 17)]
NEAR = ("idefics2, split", "idefics, not resampled", "paligemma 2", "smolvlm")
"""Families that differ little from another one."""
GENERATED = [
    pytest.param(name, marks=pytest.mark.long) if name in NEAR else name for name in FAMILIES
]


@pytest.fixture(scope="module")
def seeing(tmp_path_factory):
    """Name of a family -> a model of it."""
    made: dict[str, Seeing] = {}

    def make(name: str) -> Seeing:
        if name not in made:
            made[name] = make_seeing(tmp_path_factory.mktemp("models") / "model", name)
        return made[name]

    return make


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_are_written_as_transformers_writes_them(family, seeing):
    model = seeing(family)
    for name, (text, files) in conversations(model).items():
        assert list(request_of(model, name, text, files).prompt) == model.prompt_ids(text, files)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_placeholders_are_counted_for_any_shape(family, shape, seeing):
    model = seeing(family)
    text, files = f"a {model.family.bare} b", [png(*shape)]
    assert list(request_of(model, "r", text, files).prompt) == model.prompt_ids(text, files)


@pytest.mark.parametrize("family", GENERATED)
def test_tokens_are_those_of_generate_in_any_batch(family, seeing, new_engine):
    model = seeing(family)
    asked = conversations(model)
    expected = {name: model.generate(*one, NUM) for name, one in asked.items()}
    wanted = [request_of(model, name, *one) for name, one in asked.items()]
    chunks = EngineLimits(max_chunk_tokens=7, max_step_tokens=33)
    # a prompt of PaliGemma's is computed at once
    for limits in (EngineLimits(), EngineLimits() if "paligemma" in family else chunks):
        engine = new_engine(model, limits, cache_tokens=4096, max_rows=8)
        assert run(engine, *wanted) == expected
        # the beginnings are in the cache now
        for request in reversed(wanted):
            assert run(engine, request) == {request.request_id: expected[request.request_id]}


@pytest.mark.parametrize("family", ["llava_next", "qwen2_vl"])
def test_tokens_are_those_of_generate_after_preemption(family, seeing, new_engine):
    model = seeing(family)
    bare = model.family.bare
    asked = {f"r{i}": (f"{i}{bare} is what?", [png(40, 30, i)]) for i in range(4)}
    wanted = [request_of(model, name, *one) for name, one in asked.items()]
    room = max(len(request.prompt) for request in wanted) * 2 + NUM
    engine = new_engine(model, cache_tokens=room)
    expected = {name: model.generate(*one, NUM) for name, one in asked.items()}
    assert run(engine, *wanted) == expected
    assert engine.scheduler.num_preemptions or engine._cache.num_parked < 4


@pytest.mark.parametrize("family", FAMILIES)
def test_these_models_would_show_a_wrong_image(family, seeing):
    """The tests above could not fail if the logits hardly depended on the images."""
    model = seeing(family)
    text = f"look: {model.family.bare} what is it?"
    one, other = (model.logits(text, [png(40, 30, seed)]) for seed in (1, 2))
    assert np.abs(one - other).max() > 1e-2


WITH_TEMPLATES = [n for n in FAMILIES if "paligemma" not in n and n.split(",")[0] != "idefics"]
"""The processors of the others begin any text anew, be it a template's."""


@pytest.mark.parametrize("family", WITH_TEMPLATES)
def test_chats_are_written_as_transformers_writes_them(family, seeing):
    model = seeing(family)
    template = ChatTemplate(
        model.family.template.replace("MARKER", model.family.bare),
        bos_token="<s>",
        eos_token="</s>",
        special_texts=[*TOKENIZER.special_texts, *prompts_of(model).layout.special_texts],
        image_marker=model.family.marker,
    )
    rendered = template.render(
        [
            Message("user", f"what is {IMAGE_MARK}?", images=("a",)),
            Message("assistant", "a cat"),
            Message("user", f"and {IMAGE_MARK}{IMAGE_MARK}", images=("b", "c")),
        ]
    )
    assert rendered.images == ("a", "b", "c")
    files = [png(40, 30), png(30, 40), png(9, 9)]
    prompts = prompts_of(model)
    pictures = [look_at(file, MANY) for file in files]
    tokens = encode(TOKENIZER, prompts.written(rendered, pictures), add_special_tokens=False)
    bare = model.family.bare
    text = f"<s>[user] what is {bare}?\n[assistant] a cat\n[user] and {bare}{bare}\n[assistant] "
    assert tokens == model.prompt_ids(text, files, add_special_tokens=False)
    assert len(prompts.placed(tokens, pictures)) == 3


def test_a_picture_on_its_side_is_seen_upright(seeing, new_engine):
    model = seeing("qwen2_vl")
    engine = new_engine(model)
    pixels = np.array(PIL.Image.open(BytesIO(png(42, 28))))
    text = f"look: {model.family.bare} what is it?"
    turned = {
        3: pixels[::-1, ::-1],
        6: np.rot90(pixels),
        8: np.rot90(pixels, -1),
        5: pixels.transpose(1, 0, 2),
        2: pixels[:, ::-1],
        4: pixels[::-1],
        7: pixels[::-1, ::-1].transpose(1, 0, 2),
    }
    upright = run(engine, request_of(model, "r", text, [png(42, 28)]))
    for orientation, array in turned.items():
        exif = PIL.Image.Exif()
        exif[0x0112] = orientation
        buffer = BytesIO()
        PIL.Image.fromarray(np.ascontiguousarray(array)).save(buffer, "PNG", exif=exif)
        assert run(engine, request_of(model, "r", text, [buffer.getvalue()])) == upright


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "GIF", "PNG of grey", "PNG with transparency"])
def test_every_format_is_decoded(form, seeing, new_engine):
    model = seeing("llava_next")
    picture = PIL.Image.open(BytesIO(png(40, 30)))
    match form:
        case "PNG of grey":
            picture, form = picture.convert("L"), "PNG"
        case "PNG with transparency":
            picture, form = picture.convert("RGBA"), "PNG"
    buffer = BytesIO()
    picture.save(buffer, form)
    text, files = f"look: {model.family.bare}", [buffer.getvalue()]
    answer = run(new_engine(model), request_of(model, "r", text, files))
    assert answer == {"r": model.generate(text, files, NUM)}


def test_a_damaged_image_is_refused_in_our_words(seeing, new_engine):
    model = seeing("llava_next")
    backend = new_engine(model)._backend
    [image] = request_of(model, "r", model.family.bare, [png(40, 30)]).images
    for data in (image.data[:200], image.data[:50] + bytes(50), b"", b"\xff\xd8\xff"):
        with pytest.raises(BadImage) as refusal:
            backend.read_image(replace(image, data=data))
        assert "invalid image" in str(refusal.value) and "0x" not in str(refusal.value)


def test_an_image_that_is_not_what_its_header_says_fails_alone(seeing, new_engine):
    model = seeing("llava_next")
    good = request_of(model, "good", f"{model.family.bare} is", [png(40, 30)])
    [image] = good.images
    begin, end = image.spans[0]
    bad = replace(good, request_id="bad", images=(replace(image, spans=((begin, end - 1),)),))
    engine = new_engine(model)
    engine.submit(bad)
    failures = []
    while engine.busy:
        failures += [e for e in engine.poll(0.01) if isinstance(e, RequestFailed)]
    assert [failure.invalid for failure in failures] == [True]
    expected = model.generate(f"{model.family.bare} is", [png(40, 30)], NUM)
    assert run(engine, good) == {"good": expected}


def test_shapes_that_a_model_cannot_take_are_refused_before(seeing):
    layout = layout_of(seeing("qwen2_vl").folder, "<s>")
    with pytest.raises(ValidationError, match="200 times"):
        layout.num_vectors(Size(201, 1))


def test_a_model_without_its_processor_is_served_for_text(tmp_path, new_engine):
    model = make_seeing(tmp_path / "model", "llava_next")
    (model.folder / "preprocessor_config.json").unlink()
    engine = new_engine(model)
    assert Feature.IMAGE not in engine.info.features
    text = request_of(model, "r", "no image", [])
    assert run(engine, text) == {"r": model.generate("no image", [], NUM)}


def test_a_damaged_processor_is_refused(tmp_path, new_engine):
    model = make_seeing(tmp_path / "model", "llava_next")
    (model.folder / "preprocessor_config.json").write_text("{")
    with pytest.raises(BadModel, match=r"preprocessor_config\.json"):
        new_engine(model)


def test_a_text_model_says_that_it_takes_text_alone(family_folder, load):
    backend = load(family_folder("llama"))
    assert backend.capabilities.modalities == {Modality.TEXT}


def test_placeholders_without_an_image_are_refused(seeing):
    model = seeing("llava_next")
    prompts = prompts_of(model)
    tokens = TOKENIZER.encode("a <image> b", add_special_tokens=True)
    with pytest.raises(ValidationError, match="1 tokens <image>"):
        prompts.placed(tokens, [])
    assert asyncio.run(prompts.load([])) == []


class TestTorchImages(ImagePromises):
    """The kit's promises; the rest of them is kept by a text model."""

    module = "tgi_backend_torch.plugin"

    @pytest.fixture(scope="class")
    @classmethod
    def load_request(cls, tmp_path_factory) -> LoadRequest:
        folder = make_seeing(tmp_path_factory.mktemp("model") / "model", "llava_next").folder
        return request_for(folder, max_rows=8, max_sequence_tokens=128, max_step_tokens=96)

    @pytest.fixture(scope="class")
    @classmethod
    def images(cls) -> list[tuple[bytes, int]]:
        layout = LlavaNextLayout(
            tile=28, patches=2, resolutions=((28, 56), (56, 28), (56, 56), (84, 28), (28, 84))
        )
        return [(png(*size), layout.num_vectors(Size(*size))) for size in ((40, 20), (30, 31))]
