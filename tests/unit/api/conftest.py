"""An engine that plays a script, and a client that speaks ASGI, so that every moment is exact."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors

from tests.unit.api.tooled import with_model
from tgi_core.api.app import create_app
from tgi_core.api.options import HttpOptions
from tgi_core.api.service import ApiLimits, ServedModel, Service
from tgi_core.builtin.reasoning_parsers.think import THINK
from tgi_core.builtin.tool_parsers.hermes import HERMES
from tgi_core.contract import (
    AdapterRef,
    Dialect,
    EngineInfo,
    Event,
    Feature,
    FinishReason,
    PromptScored,
    Request,
    RequestStarted,
    StepStats,
    TokenEvent,
    TopToken,
)
from tgi_core.errors import BadAdapter
from tgi_core.text.chat import ChatTemplate
from tgi_core.text.tokenizer import HFTokenizer
from tgi_core.text.validate import Limits

TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"

Headers = dict[str, str] | Sequence[tuple[str, str]]
Batches = list[Sequence[Event]]
"""What each call of `next` returns; after the last one it waits for ever."""


def byte_tokenizer(*special: str, **more: Any) -> HFTokenizer:
    """One token a byte, and special ones: the first begins a text, and the second ends it."""
    begin, end, *_ = special
    vocab = {char: i for i, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    raw = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens([AddedToken(name) for name in special])
    raw.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, raw.token_to_id(begin))]
    )
    return HFTokenizer(
        raw, eos_token_ids=(raw.token_to_id(end),), bos_token=begin, eos_token=end, **more
    )


@pytest.fixture(scope="session")
def seeing_tokenizer() -> HFTokenizer:
    """With a placeholder for parts of an image."""
    return byte_tokenizer("<s>", "</s>", "<image>")


@pytest.fixture(scope="session")
def tokenizer() -> HFTokenizer:
    """With a mark that ends turns."""
    return byte_tokenizer("<s>", "</s>", "<|end|>", chat_template=TEMPLATE)


class ScriptedGeneration:
    """Satisfies Generation."""

    def __init__(self, request: Request, batches: Batches) -> None:
        self.request = request
        self.num_cancelled = 0
        self.waiting = asyncio.Event()
        """Set while somebody waits for an event that does not come."""
        self._batches = iter(batches)

    async def next(self) -> Sequence[Event]:
        await asyncio.sleep(0)
        for batch in self._batches:
            return batch
        self.waiting.set()
        await asyncio.get_running_loop().create_future()
        raise AssertionError("unreachable")

    def cancel(self) -> None:
        self.num_cancelled += 1


@dataclass
class ScriptedEngine:
    """Satisfies EngineClient."""

    info: EngineInfo | None
    script: Callable[[Request], Batches]
    ready: bool = True
    stats: StepStats = field(default_factory=StepStats)
    num_deaths: int = 0
    generations: list[ScriptedGeneration] = field(default_factory=list)
    faults: dict[str, str] = field(default_factory=dict)
    """What is wrong with adapters, by name."""
    dropped: list[str] = field(default_factory=list)
    """Names of adapters that nobody will ask for."""

    def submit(self, request: Request) -> ScriptedGeneration:
        self.generations.append(ScriptedGeneration(request, self.script(request)))
        return self.generations[-1]

    async def load_adapter(self, adapter: AdapterRef) -> None:
        await asyncio.sleep(0)
        if adapter.name in self.faults:
            raise BadAdapter(self.faults[adapter.name])

    def drop_adapter(self, adapter: AdapterRef) -> None:
        self.dropped.append(adapter.name)

    @property
    def last(self) -> Request:
        return self.generations[-1].request


def tokens_of(
    tokenizer: HFTokenizer, request: Request, text: str, *, ends: bool, logprob: float = -0.25
) -> Batches:
    """One batch a token, as a step engine sends them; respects length, logprobs and the end."""
    tokens = tokenizer.encode(text, add_special_tokens=False)
    if ends and not request.stop.ignore_eos:
        tokens += request.stop.eos_token_ids[:1]
    batches: Batches = [(RequestStarted(request_id=request.request_id, queue_s=0.5, num_cached=3),)]
    top = tuple(
        TopToken(token=token, logprob=-0.5 - token) for token in range(request.sampling.num_top)
    )
    if request.prompt_logprobs and len(request.prompt) > 1:
        scored = len(request.prompt) - 1
        batches.append(
            (
                PromptScored(
                    request_id=request.request_id,
                    logprobs=(-0.125,) * scored,
                    top=(top,) * scored if top else (),
                ),
            )
        )
    for place, token in enumerate(tokens[: request.stop.max_new_tokens]):
        finish = None
        if place + 1 == request.stop.max_new_tokens:
            finish = FinishReason.LENGTH
        elif ends and place + 1 == len(tokens):
            finish = FinishReason.EOS
        batches.append(
            (
                TokenEvent(
                    request_id=request.request_id,
                    tokens=(token,),
                    logprobs=(logprob,) if request.sampling.logprobs else (),
                    top=(top,) if top else (),
                    finish=finish,
                ),
            )
        )
    return batches


@dataclass
class Reply:
    """What a client got."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    chunks: list[bytes] = field(default_factory=list)
    ended: bool = False

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    @property
    def json(self) -> object:
        return json.loads(self.body)

    @property
    def events(self) -> list[object]:
        """The objects of a stream; the text "[DONE]" as it is, comments left out."""
        found = []
        for block in self.body.decode().split("\n\n")[:-1]:
            if block == ":":
                continue
            assert block.startswith("data: "), block
            data = block.removeprefix("data: ")
            found.append(data if data == "[DONE]" else json.loads(data))
        return found


class Server:
    """The application and a client of it."""

    def __init__(self, service: Service, engine: ScriptedEngine, tokenizer: HFTokenizer) -> None:
        self.service = service
        self.engine = engine
        self.tokenizer = tokenizer
        self.app = create_app(service)

    def with_options(self, dialects: Sequence[Dialect] = (), **options: object) -> Server:
        """The same service behind another surface."""
        self.app = create_app(self.service, dialects, HttpOptions(**options))
        return self

    def says(self, text: str, *, ends: bool = True) -> None:
        """Every request is answered with this text."""
        self.engine.script = lambda request: tokens_of(self.tokenizer, request, text, ends=ends)

    def says_in_turn(self, *answers: tuple[str, float]) -> None:
        """The next requests are answered with these texts, their tokens so probable."""
        left = iter(answers)

        def script(request: Request) -> Batches:
            text, logprob = next(left)
            return tokens_of(self.tokenizer, request, text, ends=True, logprob=logprob)

        self.engine.script = script

    def post(self, path: str, body: object, **more: object) -> Reply:
        """One request from beginning to end."""
        return asyncio.run(self.exchange("POST", path, body, **more))

    def new_reply(self) -> Reply:
        """To watch an exchange that is going on."""
        return Reply()

    def post_and_crash(self, path: str, body: object) -> tuple[Reply, RuntimeError]:
        """A request upon which the application raises, as it does for the server's log."""
        reply = Reply()
        with pytest.raises(RuntimeError) as crash:
            asyncio.run(self.exchange("POST", path, body, reply=reply))
        return reply, crash.value

    def get(self, path: str, headers: Headers = (), query: str = "") -> Reply:
        return asyncio.run(self.exchange("GET", path, b"", headers=headers, query=query))

    def request(self, method: str, path: str, headers: Headers = (), body: object = b"") -> Reply:
        return asyncio.run(self.exchange(method, path, body, headers=headers))

    async def exchange(
        self,
        method: str,
        path: str,
        body: object,
        *,
        headers: Headers = (),
        query: str = "",
        gone: asyncio.Event | None = None,
        reply: Reply | None = None,
    ) -> Reply:
        """One request; setting `gone` is the client going away."""
        gone = gone or asyncio.Event()
        reply = reply or Reply()
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        given = list(headers.items() if isinstance(headers, dict) else headers)
        if not any(name == "content-type" for name, _ in given):
            given.append(("content-type", "application/json"))
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(k.lower().encode(), v.encode()) for k, v in given],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }
        # in two parts, as long bodies come
        parts = iter([(content[:10], True), (content[10:], False)])

        async def receive() -> dict[str, object]:
            for part, more in parts:
                return {"type": "http.request", "body": part, "more_body": more}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, object]) -> None:
            if message["type"] == "http.response.start":
                assert not reply.status
                reply.status = message["status"]
                reply.headers = {k.decode(): v.decode() for k, v in message["headers"]}
            else:
                assert reply.status and not reply.ended
                if message["body"]:
                    reply.chunks.append(message["body"])
                reply.ended = not message.get("more_body", False)

        await self.app(scope, receive, send)
        return reply

    @property
    def idle(self) -> bool:
        """Every generation was cancelled once, and every permit is back."""
        once = all(generation.num_cancelled == 1 for generation in self.engine.generations)
        return once and self.service.admission.free == self.service.limits.max_concurrent_requests


@pytest.fixture
def server(tokenizer: HFTokenizer) -> Server:
    info = EngineInfo(
        device="script",
        vocab_size=tokenizer.vocab_size,
        max_prompt_tokens=100,
        max_sequence_tokens=128,
        max_requests=8,
        cache_tokens=1024,
        features=frozenset(Feature) - {Feature.WATERMARK},  # a plugin's
    )
    engine = ScriptedEngine(info, lambda request: [])
    model = ServedModel(
        model_id="org/model",
        tokenizer=tokenizer,
        limits=Limits(
            max_input_tokens=100,
            max_total_tokens=128,
            vocab_size=tokenizer.vocab_size,
            features=info.features,
        ),
        template=ChatTemplate(
            TEMPLATE,
            bos_token="<s>",
            eos_token="</s>",
            special_texts=tokenizer.special_texts,
        ),
        compute_type="1-script",
    )
    service = Service(engine=engine, limits=ApiLimits(max_concurrent_requests=8), model=model)
    server = Server(service, engine, tokenizer)
    server.says("Hello")
    return server


@pytest.fixture
def marking(server: Server) -> Server:
    """With a plugin that makes watermarks."""
    model = server.service.model
    assert model is not None
    limits = replace(model.limits, features=frozenset(Feature))
    server.service.model = replace(model, limits=limits)
    return server


@pytest.fixture
def tooled(server: Server) -> Server:
    """With a model that calls tools as Hermes does, and thinks."""
    return with_model(server, tool_parser=HERMES, reasoning_parser=THINK)
