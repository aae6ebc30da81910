"""Requests with images for tiny models, as the API makes them, and engines run on them."""

from __future__ import annotations

from tests.seeing import Seeing, png
from tests.vision import new_tokenizer
from tgi_core.contract import Request, RequestFailed, StopRule, TokenEvent
from tgi_core.engine.step_engine import StepEngine
from tgi_core.images.layouts import layout_of
from tgi_core.images.picture import look_at
from tgi_core.images.prompt import ImagePrompts
from tgi_core.text.plain import IMAGE_MARK, GuardedText, encode
from tgi_core.text.tokenizer import HFTokenizer

NUM = 12
MANY = 10**9
TOKENIZER = HFTokenizer(new_tokenizer(), bos_token="<s>", eos_token="</s>")


def prompts_of(model: Seeing) -> ImagePrompts:
    layout = layout_of(model.folder, "<s>")
    assert layout is not None
    return ImagePrompts(layout, TOKENIZER)


def request_of(
    model: Seeing, name: str, text: str, files: list[bytes], *, special: bool = True
) -> Request:
    """As the API makes it of a text with a marker for each image."""
    prompts = prompts_of(model)
    pictures = [look_at(file, MANY) for file in files]
    tail = model.family.tail if files else ""
    texts = text.split(model.family.marker)
    marked = GuardedText(IMAGE_MARK.join(t.strip(prompts.layout.trimmed) for t in texts) + tail)
    written = prompts.written(marked, pictures) if files else marked
    special = special and not (files and prompts.layout.is_whole)
    tokens = encode(TOKENIZER, written, add_special_tokens=special)
    return Request(
        request_id=name,
        prompt=tuple(tokens),
        images=prompts.placed(tokens, pictures),
        stop=StopRule(max_new_tokens=NUM),
    )


def run(engine: StepEngine, *requests: Request) -> dict[str, list[int]]:
    answers: dict[str, list[int]] = {request.request_id: [] for request in requests}
    for request in requests:
        engine.submit(request)
    while engine.busy:
        for event in engine.poll(0.01):
            assert not isinstance(event, RequestFailed), event
            if isinstance(event, TokenEvent):
                answers[event.request_id] += event.tokens
    return answers


def conversations(model: Seeing) -> dict[str, tuple[str, list[bytes]]]:
    """No image, one and several, small and large, apart and side by side."""
    bare = model.family.bare
    small, tall, wide = png(21, 15), png(30, 70, 1), png(75, 33, 2)
    return {
        "text": ("no image at all", []),
        "one": (f"look: {bare} what is it?", [small]),
        "first": (f"{bare}and then", [wide]),
        "last": (f"this is {bare}", [tall]),
        "two": (f"{bare} and {bare}: which?", [tall, wide]),
        "side by side": (f"see {bare}{bare} here", [small, tall]),
        "twice": (f"{bare} or {bare}?", [small, small]),
    }
