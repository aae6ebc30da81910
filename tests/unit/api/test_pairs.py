"""All features in pairs: each keeps its promise beside every other, or the request is refused.

A feature says what it changes of a request and of the server, and what has to hold of an answer. To
these comes what holds of all: the tokens are those that the same request gets alone, in an engine
that does nothing else. The model is the fake one: what it writes is noise, but always the same.

More than 400 lines, for they are one table.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from tests.engines import LOAD, freeze_costs, generate, no_progress, requests
from tests.in_process import Generated, InProcessEngine
from tests.unit.api.conftest import Reply, Server
from tests.unit.api.test_images import SIZE, image_url, picture, uri
from tests.unit.api.tooled import TEMPLATE, joined
from tgi_core.api.adapters import Adapters
from tgi_core.api.service import ApiLimits, ServedModel, Service
from tgi_core.builtin.guidance import LLGuidance
from tgi_core.builtin.queue_policies import FirstComeFirstServed
from tgi_core.builtin.tool_parsers.hermes import HERMES
from tgi_core.contract import (
    AdapterRef,
    Boost,
    Draft,
    Drafter,
    DraftSetup,
    DraftWish,
    Request,
    StopRule,
)
from tgi_core.engine.guidance import Guidance
from tgi_core.engine.limits import EngineLimits
from tgi_core.engine.speculation import Drafting
from tgi_core.engine.step_engine import StepEngine
from tgi_core.images.layouts.llava_next import LlavaNextLayout
from tgi_core.images.prompt import ImageLimits, ImagePrompts
from tgi_core.testing.fake import FakeBackend, FakeShape
from tgi_core.testing.models import write_fake_adapter
from tgi_core.text.chat import ChatTemplate
from tgi_core.text.tokenizer import HFTokenizer
from tgi_core.text.validate import Limits

PROMPT = "The quick brown fox jumps over the lazy dog, once; sphinx of black quartz judges."
"""Holds all letters, and is longer than a block of the cache."""
MAX_TOKENS = 40
WORD = r"[a-z ]{30}"
TRIP = {
    "type": "object",
    "properties": {"to": {"type": "string", "pattern": "^[a-z]{12}$"}},
    "required": ["to"],
    "additionalProperties": False,
}


class Green:
    """A watermark that leaves no choice: after each token the tokens of one parity."""

    name = "watermark"

    def boost(self, tokens: Sequence[int], vocab_size: int) -> Boost:
        green = (np.arange(-(-vocab_size // 32) * 32) + tokens[-1]) % 2 == 0
        return Boost(np.packbits(green, bitorder="little").view("<i4").astype(np.int32), 1000.0)


class Foresight:
    """Drafts what a request gets in a world without drafts, with every seventh token wrong."""

    name = "foresight"

    def __init__(self, world: World) -> None:
        self.world = world

    def start(self, setup: DraftSetup) -> Drafter:
        return self

    def propose(self, wishes: Sequence[DraftWish]) -> Sequence[Draft]:
        known = {g.request.request_id: g.request for g in self.world.engine.generations}
        return [Draft(tokens=self.draft(wish, known.get(wish.request_id))) for wish in wishes]

    def draft(self, wish: DraftWish, request: Request | None) -> tuple[int, ...]:
        if request is None:
            return ()
        begin = len(wish.tokens)
        tokens = [*request.prompt, *self.world.alone(request)][begin : begin + wish.most]
        return tuple(token ^ ((begin + i) % 7 == 0) for i, token in enumerate(tokens))

    def forget(self, request_id: str) -> None:
        pass


@dataclass
class World:
    """A server and its engine, and what was asked of them."""

    tokenizer: HFTokenizer
    adapter: AdapterRef
    cache_tokens: int = 65536
    drafts: bool = False
    outputs: dict[str, list[int]] = field(default_factory=dict)
    """What requests get alone, by their ids."""
    idle: StepEngine = field(init=False)
    engine: InProcessEngine = field(init=False)
    server: Server = field(init=False)

    def start(self) -> None:
        """Makes them."""
        drafting = EngineLimits(num_drafts=4) if self.drafts else None
        self.engine = InProcessEngine(self.step_engine(self.cache_tokens, drafting))
        self.idle = self.step_engine(65536, EngineLimits(prefix_caching=False))
        info = self.engine.info
        layout = LlavaNextLayout(tile=28, patches=2, resolutions=((28, 28),))
        adapters = Adapters(self.engine, "org/model", 4)  # type: ignore[arg-type]
        adapters._known["other"] = self.adapter
        model = ServedModel(
            model_id="org/model",
            tokenizer=self.tokenizer,
            limits=Limits(
                max_input_tokens=1500,
                max_total_tokens=2000,
                vocab_size=info.vocab_size,
                features=info.features,
            ),
            template=ChatTemplate(
                TEMPLATE,
                bos_token="<s>",
                eos_token="</s>",
                special_texts=[*self.tokenizer.special_texts, *layout.special_texts],
                image_marker=layout.marker,
            ),
            tool_parser=HERMES,
            adapters=adapters,
            images=ImagePrompts(layout, self.tokenizer, ImageLimits(), None),
        )
        limits = ApiLimits(max_concurrent_requests=64)
        service = Service(engine=self.engine, limits=limits, model=model)  # type: ignore[arg-type]
        self.server = Server(service, self.engine, self.tokenizer)  # type: ignore[arg-type]

    def step_engine(self, cache_tokens: int, limits: EngineLimits | None = None) -> StepEngine:
        size = self.tokenizer.vocab_size
        shape = FakeShape(vocab_size=size, cache_tokens=cache_tokens, images=True)
        engine = StepEngine(
            FakeBackend(shape),
            FirstComeFirstServed(),
            limits,
            guidance=Guidance(LLGuidance()),
            adjustments={"watermark": Green()},
            drafting=Drafting(Foresight(self)) if limits and limits.num_drafts else None,
        )
        engine.start(replace(LOAD, max_adapters=2), no_progress)
        freeze_costs(engine)
        engine.use_vocabulary(self.tokenizer.vocabulary())
        return engine

    def alone(self, request: Request) -> list[int]:
        """What a request gets from an engine with room that has nothing else to do."""
        if request.request_id not in self.outputs:
            self.outputs |= generate(self.idle, [request])
        return self.outputs[request.request_id]

    def send(self, wish: Wish, **more: Any) -> Reply:
        return self.server.post(wish.path, wish.body | more)


@dataclass
class Wish:
    """A request that features change."""

    body: dict[str, Any] = field(default_factory=dict)
    chat: bool = False
    shown: bytes | None = None
    """A picture that the prompt begins with."""
    free: str | None = None
    """A regular expression whose group is the part of a text that the model is free in."""

    @property
    def path(self) -> str:
        return "/v1/chat/completions" if self.chat else "/v1/completions"


@dataclass
class Answer:
    """What came of it."""

    wish: Wish
    generated: list[Generated]
    choices: list[dict[str, Any]]
    cached: int = 0

    def text(self, choice: dict[str, Any]) -> str:
        """What the model wrote, the arguments of its calls included."""
        if not self.wish.chat:
            return str(choice["text"])
        calls = choice["message"].get("tool_calls", ())
        said = choice["message"].get("content") or ""
        return said + "".join(call["function"]["arguments"] for call in calls)


class Feature:
    """What a feature changes, and what it promises. Most do the same on every route."""

    def ask(self, wish: Wish) -> None:
        """Changes the request."""

    def prepare(self, world: World) -> None:
        """Changes a server that has not started."""

    def before(self, world: World, wish: Wish) -> None:
        """What happens right before the request."""

    def holds(self, world: World, answer: Answer) -> None:
        """Asserts what is promised."""


class Stream(Feature):
    def ask(self, wish: Wish) -> None:
        wish.body |= {"stream": True, "stream_options": {"include_usage": True}}

    def holds(self, world: World, answer: Answer) -> None:
        whole = answer_of(world, answer.wish, stream=False, stream_options=None)
        assert without_ids(answer.choices) == without_ids(whole.choices)


class SeveralChoices(Feature):
    def ask(self, wish: Wish) -> None:
        wish.body["n"] = 2

    def holds(self, world: World, answer: Answer) -> None:
        assert [choice["index"] for choice in answer.choices] == [0, 1]
        seeds = [generated.request.sampling.seed for generated in answer.generated]
        assert seeds[:2] == [7, 8]


class BestOf(Feature):
    def ask(self, wish: Wish) -> None:
        wish.body["best_of"] = 3

    def holds(self, world: World, answer: Answer) -> None:
        assert len(answer.generated) == 3
        every = answer_of(world, answer.wish, best_of=3, n=3, logprobs=0)
        means = {c["text"]: np.mean(c["logprobs"]["token_logprobs"]) for c in every.choices}
        best = sorted(means, key=lambda text: -means[text])
        assert [c["text"] for c in answer.choices] == best[: answer.wish.body.get("n", 1)]


class Logprobs(Feature):
    def ask(self, wish: Wish) -> None:
        wish.body |= {"logprobs": True, "top_logprobs": 3} if wish.chat else {"logprobs": 3}

    def holds(self, world: World, answer: Answer) -> None:
        by_tokens = {tuple(map(world.tokenizer.token_text, g.tokens)) for g in answer.generated}
        for choice in answer.choices:
            logprobs = choice["logprobs"]
            if answer.wish.chat:
                tokens = [one["token"] for one in logprobs["content"]]
                values = [one["logprob"] for one in logprobs["content"]]
                top = [
                    [(t["token"], t["logprob"]) for t in one["top_logprobs"]]
                    for one in logprobs["content"]
                ]
            else:
                tokens, values = logprobs["tokens"], logprobs["token_logprobs"]
                top = [list(one.items()) for one in logprobs["top_logprobs"]]
            assert len(tokens) == len(values) == len(top) and tuple(tokens) in by_tokens
            assert all(value <= 1e-6 for value in values)
            for token, value, best in zip(tokens, values, top, strict=True):
                assert all(value <= most + 1e-5 for _, most in best[:1])
                assert dict(best).get(token, value) == pytest.approx(value, abs=1e-5)


class Guided(Feature):
    def ask(self, wish: Wish) -> None:
        wish.body["grammar"] = {"type": "regex", "value": WORD}
        wish.free = f"({WORD})"

    def holds(self, world: World, answer: Answer) -> None:
        for choice in answer.choices:
            assert re.fullmatch(WORD, answer.text(choice))
            assert choice["finish_reason"] == "stop"


class Tools(Feature):
    def ask(self, wish: Wish) -> None:
        wish.chat = True
        tool = {"type": "function", "function": {"name": "go", "parameters": TRIP}}
        wish.body |= {"tools": [tool], "tool_choice": "required", "max_tokens": 600}
        wish.free = r'"([a-z]{12})"'

    def holds(self, world: World, answer: Answer) -> None:
        for choice in answer.choices:
            [call] = choice["message"]["tool_calls"]
            assert call["function"]["name"] == "go"
            jsonschema.validate(json.loads(call["function"]["arguments"]), TRIP)
            assert choice["finish_reason"] == "tool_calls"


class Shown(Feature):
    """A picture; without it the model says something else."""

    def ask(self, wish: Wish) -> None:
        wish.chat = True
        wish.shown = picture()

    def holds(self, world: World, answer: Answer) -> None:
        for generated in answer.generated:
            [image] = generated.request.images
            assert image.data == answer.wish.shown
            [(begin, end)] = image.spans
            assert end - begin == SIZE
            blind = replace(generated.request, request_id="blind", images=())
            assert world.alone(blind) != generated.tokens
            del world.outputs["blind"]


class Adapter(Feature):
    def ask(self, wish: Wish) -> None:
        wish.body["adapter_id"] = "other"

    def holds(self, world: World, answer: Answer) -> None:
        assert all(g.request.adapter == world.adapter for g in answer.generated)
        base = answer_of(world, answer.wish, adapter_id=None)
        assert base.generated[0].tokens != answer.generated[0].tokens


class PrefixHit(Feature):
    def before(self, world: World, wish: Wish) -> None:
        answer_of(world, wish, stream=False, stream_options=None)

    def holds(self, world: World, answer: Answer) -> None:
        assert answer.cached >= 16
        assert all(generated.num_cached >= 16 for generated in answer.generated)


class Preempted(Feature):
    """Others fill the cache, so that not all can end; who came last gives way."""

    def prepare(self, world: World) -> None:
        world.cache_tokens = 1024

    def before(self, world: World, wish: Wish) -> None:
        # after so many steps nothing is left
        steps = 6 if world.drafts else 20
        room = 1024 - steps * 12 - (330 if "tools" in wish.body else 90)
        for request in requests(room // 60, temperature=0.8):
            prompt = (request.prompt * 60)[:60]
            stop = StopRule(max_new_tokens=90)
            world.engine.steps.submit(replace(request, prompt=prompt, stop=stop))

    def holds(self, world: World, answer: Answer) -> None:
        assert world.engine.stats.preemptions > 0


class Drafted(Feature):
    def prepare(self, world: World) -> None:
        world.drafts = True

    def holds(self, world: World, answer: Answer) -> None:
        assert world.engine.stats.drafted_tokens > world.engine.stats.accepted_tokens > 0


class Penalties(Feature):
    """So strong that only what was said before is said again, where the model is free."""

    def ask(self, wish: Wish) -> None:
        wish.body |= {"repetition_penalty": 0.01, "presence_penalty": -2.0}

    def holds(self, world: World, answer: Answer) -> None:
        for generated in answer.generated:
            said = set(generated.request.prompt)
            for place in free_places(world, answer, generated):
                assert generated.tokens[place] in said | set(generated.tokens[:place])


class Watermarked(Feature):
    def ask(self, wish: Wish) -> None:
        wish.body["watermark"] = True

    def holds(self, world: World, answer: Answer) -> None:
        for generated in answer.generated:
            tokens = [*generated.request.prompt, *generated.tokens]
            begin = len(generated.request.prompt)
            for place in free_places(world, answer, generated):
                last, token = tokens[begin + place - 1 : begin + place + 1]
                assert (last + token) % 2 == 0


class Aborted(Feature):
    """The client goes away in the middle; whoever asks then gets what is promised."""

    def before(self, world: World, wish: Wish) -> None:
        gone, begun = asyncio.Event(), len(world.engine.generations)

        async def leave() -> None:
            while not all(g.tokens[3:] for g in world.engine.generations[begun:] or [None]):
                await asyncio.sleep(0)
            gone.set()

        async def both() -> None:
            exchange = world.server.exchange("POST", wish.path, wish.body, gone=gone)
            await asyncio.gather(exchange, leave_if_begun(leave))

        async def leave_if_begun(then: Any) -> None:
            while len(world.engine.generations) == begun:
                await asyncio.sleep(0)
            await then()

        asyncio.run(both())
        left = world.engine.generations[begun:]
        assert left and all(generated.cancelled for generated in left)
        assert any(len(generated.tokens) < MAX_TOKENS for generated in left)
        assert world.server.service.admission.free == 64

    def holds(self, world: World, answer: Answer) -> None:
        while world.engine.steps.busy:
            world.engine.poll()
        assert world.engine.stats.num_running == 0


FEATURES: dict[str, Feature] = {
    "stream": Stream(),
    "n": SeveralChoices(),
    "best_of": BestOf(),
    "logprobs": Logprobs(),
    "guidance": Guided(),
    "tools": Tools(),
    "adapter": Adapter(),
    "image": Shown(),
    "prefix hit": PrefixHit(),
    "preemption": Preempted(),
    "drafts": Drafted(),
    "abort": Aborted(),
    "penalties": Penalties(),
    "watermark": Watermarked(),
}
REFUSED = {
    ("stream", "best_of"): "`best_of` > `n` is not supported when streaming",
    ("best_of", "tools"): "`best_of` is not supported",
    ("best_of", "image"): "`best_of` is not supported",
    ("guidance", "tools"): "mutually exclusive",
}


@pytest.fixture
def world(seeing_tokenizer: HFTokenizer, tmp_path: Path) -> World:
    return World(
        seeing_tokenizer, AdapterRef.at("other", write_fake_adapter(tmp_path / "other", 3))
    )


def without_ids(choices: list[dict[str, Any]]) -> Any:
    return json.loads(re.sub(r'"id": "[a-z_0-9]+"', '"id": ""', json.dumps(choices)))


def free_places(world: World, answer: Answer, generated: Generated) -> list[int]:
    """Where in the output the model could choose among many tokens; a token is a byte."""
    if answer.wish.free is None:
        return list(range(len(generated.tokens)))
    text = world.tokenizer.decode(generated.tokens, skip_special_tokens=True)
    match = re.search(answer.wish.free, text)
    assert match is not None
    return list(range(*match.span(1)))


def answer_of(world: World, wish: Wish, **more: Any) -> Answer:
    """Sends a request; checks what holds of all answers."""
    begun = len(world.engine.generations)
    reply = world.send(wish, **more)
    assert reply.status == 200, reply.body
    generated = world.engine.generations[begun:]
    for one in generated:
        assert one.tokens == world.alone(one.request)
    body = wish.body | more
    if not body.get("stream"):
        found = reply.json
        return Answer(wish, generated, found["choices"], cached_of(found["usage"]))
    events = [event for event in reply.events if event != "[DONE]"]
    num = body.get("n", 1)
    if wish.chat:
        choices = [joined(events, index) for index in range(num)]
    else:
        choices = [joined_text(events, index) for index in range(num)]
    return Answer(wish, generated, choices, cached_of(events[-1]["usage"]))


def cached_of(usage: dict[str, Any]) -> int:
    return int(usage["prompt_tokens_details"]["cached_tokens"])


def joined_text(events: Sequence[Any], index: int) -> dict[str, Any]:
    """A choice of completions put together from its events, in the shape of a whole one."""
    parts = [c for event in events for c in event["choices"] if c["index"] == index]
    logprobs: dict[str, list[Any]] | None = None
    for part in parts:
        for key, values in (part["logprobs"] or {}).items():
            logprobs = logprobs or {}
            logprobs.setdefault(key, []).extend(values)
    text = "".join(part["text"] for part in parts)
    finish = parts[-1]["finish_reason"]
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}


NO_NOISE = {str(token): -100 for token in range(94, 259)}
"""No parts of characters and no special tokens, whose texts would not tell which they are."""


def wish_of(*names: str) -> Wish:
    """Tools and images first, for they choose the route, and with it how others are written."""
    wish = Wish({"max_tokens": MAX_TOKENS, "seed": 7, "temperature": 0.8, "logit_bias": NO_NOISE})
    for name in sorted(names, key=lambda name: name not in ("tools", "image")):
        FEATURES[name].ask(wish)
    if wish.chat:
        parts: list[Any] = [{"type": "text", "text": PROMPT}]
        if wish.shown:
            parts.insert(0, image_url(uri(wish.shown)))
        wish.body["messages"] = [{"role": "user", "content": parts}]
    else:
        wish.body["prompt"] = PROMPT
    if wish.free is None:
        wish.body["ignore_eos"] = True
    return wish


PAIRS = [(name,) for name in FEATURES] + list(combinations(FEATURES, 2))


@pytest.mark.parametrize("names", PAIRS, ids=" and ".join)
def test_each_keeps_its_promise_beside_the_other_or_is_refused(
    world: World, names: tuple[str, ...]
) -> None:
    features = [FEATURES[name] for name in names]
    for feature in features:
        feature.prepare(world)
    world.start()
    wish = wish_of(*names)
    if names in REFUSED:
        reply = world.send(wish)
        assert reply.status == 422 and REFUSED[names] in reply.body.decode()
        return
    for feature in features:
        feature.before(world, wish)
    answer = answer_of(world, wish)
    for feature in features:
        feature.holds(world, answer)
