"""What is TensorRT-LLM's own: what it is told, what is refused, and what becomes of its faults."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tgi_backend_torch.runner import TorchBackend
from tgi_backend_trtllm.answers import Answer
from tgi_backend_trtllm.engine import TrtLlmEngine
from tgi_backend_trtllm.job import Chunk, End

from tests.engines import generate, requests
from tests.lora import write_lora
from tgi_core.builtin.queue_policies import FirstComeFirstServed
from tgi_core.contract import (
    AdapterRef,
    DType,
    Event,
    Feature,
    FinishReason,
    LoadRequest,
    Request,
    RequestFailed,
    RequestStarted,
    SamplingParams,
    StopRule,
    TokenEvent,
)
from tgi_core.engine.process import create_engine, offered
from tgi_core.engine.step_engine import StepEngine
from tgi_core.engine.watch import LOOKS, Watch
from tgi_core.errors import (
    BackendDead,
    BadModel,
    NotEnoughCUDADevices,
    SetupError,
    UsageError,
)
from tgi_core.ipc.messages import Start, StepDone

StartEngine = Callable[..., TrtLlmEngine]


@pytest.fixture
def start(request_for: Callable[..., LoadRequest]) -> Iterator[StartEngine]:
    """Starts engines, and closes them after the test."""
    engines: list[TrtLlmEngine] = []

    def make(**wishes: Any) -> TrtLlmEngine:
        engine = TrtLlmEngine()
        engine.start(request_for(**wishes), lambda *_: None)
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        engine.close()


def request(prompt: Sequence[int], max_new: int = 8, **more: Any) -> Request:
    return Request(
        **{
            "request_id": "a",
            "prompt": tuple(prompt),
            "stop": StopRule(max_new_tokens=max_new),
            **more,
        }
    )


def run(engine: TrtLlmEngine, *requests: Request) -> list[Event]:
    for one in requests:
        engine.submit(one)
    events: list[Event] = []
    while engine.busy:
        events += engine.poll(0.05)
    return events


def test_beginnings_are_shared_only_under_one_salt(start: StartEngine) -> None:
    engine = start()
    prompt = range(20, 90)
    cached = []
    for i, salt in enumerate(("", "", "other")):
        events = run(engine, request(prompt, 2, request_id=str(i), cache_salt=salt))
        cached += [e.num_cached for e in events if isinstance(e, RequestStarted)]
    assert cached == [0, 64, 0]
    assert engine.stats().cached_tokens == 64


@pytest.mark.long
def test_500_mixed_requests_give_what_the_cpu_gives(
    start: StartEngine, request_for: Callable[..., LoadRequest]
) -> None:
    from tensorrt_llm.executor.worker import FATAL_TOKEN, STALLING_TOKEN

    # every third one has penalties, which are refused; some beginnings end the simulator
    made = [one for i, one in enumerate(requests(900, seed=3, max_prompt=40, max_new=5)) if i % 3]
    wanted = [one for one in made if one.prompt[0] not in (FATAL_TOKEN, STALLING_TOKEN)][:500]
    assert len(wanted) == 500
    cancelled = {one.request_id for one in wanted[::50]}
    outputs = generate(start(), wanted, cancel=cancelled)
    cpu = StepEngine(TorchBackend(), FirstComeFirstServed())
    cpu.start(request_for(dtype=DType.FLOAT32), lambda *_: None)
    expected = generate(cpu, wanted, per_step=20)
    for name in cancelled:
        del outputs[name], expected[name]
    assert outputs == expected


def test_sizes_reach_the_executor(start: StartEngine) -> None:
    engine = start(cache_tokens=256, max_sequence_tokens=96, num_shards=2)
    assert engine.info.cache_tokens == 256
    assert "2 GPU" in engine.info.device
    assert engine.info.max_sequence_tokens == 96


@pytest.mark.parametrize("end", [1, 3])
def test_the_models_own_ends_end_nothing_that_a_request_does_not_name(
    start: StartEngine, end: int
) -> None:
    """They stand in generation_config.json, where the library looks."""
    always = SamplingParams(logit_bias=((end, 1e4),))
    events = run(start(), request([20, 21], 5, sampling=always))
    told = [token for e in events if isinstance(e, TokenEvent) for token in e.tokens]
    assert told == [end] * 5


def test_release_1_2_refuses_what_its_sampler_forgets(
    start: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = {Feature.SEED, Feature.PENALTIES, Feature.MIN_P}
    old = start().info.features
    monkeypatch.setattr("tensorrt_llm.__version__", "1.3.0rc24")
    assert start().info.features == old | new
    assert not old & new


@pytest.mark.parametrize(
    ("wishes", "error", "words"),
    [
        ({"quantize": "int8"}, UsageError, "ModelOpt"),
        ({"device": "cpu"}, UsageError, "cuda"),
        ({"kv_cache_dtype": "int3"}, UsageError, "fp8"),
        ({"num_shards": 3}, NotEnoughCUDADevices, "has 2"),
        ({"options": {"adapters": "yes"}}, UsageError, "on or off"),
        ({"options": {"memory_fraction": "2"}}, UsageError, "at most 1"),
        ({"options": {"memory": "2"}}, UsageError, "memory_fraction"),
    ],
)
def test_what_cannot_be_had_is_refused_with_a_way_out(
    start: StartEngine, wishes: dict[str, Any], error: type[SetupError], words: str
) -> None:
    with pytest.raises(error, match=words):
        start(**wishes)


def test_a_damaged_folder_is_told_from_one_that_is_not_supported(
    request_for: Callable[..., LoadRequest], tmp_path: Path
) -> None:
    def load(config: str) -> None:
        (tmp_path / "config.json").write_text(config)
        model = replace(request_for().model, path=tmp_path)
        TrtLlmEngine().start(replace(request_for(), model=model), lambda *_: None)

    with pytest.raises(BadModel, match=r"config\.json"):
        load("{")
    with pytest.raises(BadModel, match="vocab_size"):
        load('{"max_position_embeddings": 128}')
    with pytest.raises(SetupError, match="cannot serve this model"):
        load('{"max_position_embeddings": 128, "vocab_size": 64, "model_type": "nonsense"}')


def test_adapters_are_off_unless_the_operator_wants_them(
    start: StartEngine, loras: list[Path]
) -> None:
    engine = start()
    assert Feature.ADAPTER not in engine.info.features
    engine.load_adapter(AdapterRef.at("one", loras[0]))
    [loaded] = engine.poll(0)
    assert "adapters=on" in str(loaded)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"use_rslora": True}, "use_rslora"),
        ({"ranks": {"v_proj": 2}}, "rank_pattern"),
        ({"alpha_pattern": {"v_proj": 3}}, "alpha_pattern"),
        ({"r": 16}, "at most 8"),
        ({"bias": "all"}, "bias"),
    ],
)
def test_what_the_library_would_compute_wrongly_is_no_adapter(
    start: StartEngine, tiny: Path, tmp_path: Path, config: dict[str, Any], words: str
) -> None:
    engine = start(options={"adapters": "on"}, max_adapter_rank=8)
    path = write_lora(tmp_path / "adapter", tiny, ["q_proj", "v_proj"], **config)
    [failed] = run(engine, request([20, 21], adapter=AdapterRef.at("odd", path)))
    assert isinstance(failed, RequestFailed) and failed.invalid
    assert words in failed.message and "odd" in failed.message


def test_an_operator_who_wants_no_grammars_has_none(
    start: StartEngine, request_for: Callable[..., LoadRequest]
) -> None:
    info, load = start().info, request_for()
    guided = Start(load=load, backend=None, guidance_engine="llguidance")
    assert Feature.GRAMMAR in offered(info, guided).features
    assert Feature.GRAMMAR not in offered(info, Start(load=load, backend=None)).features


def test_a_request_that_the_library_refuses_at_once_fails_alone(
    start: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its error is a RuntimeError, as that of an executor that is gone."""
    from tensorrt_llm.llmapi import LLM, RequestError

    def refuse(*_: object, **__: object) -> None:
        raise RequestError("too long for it")

    engine = start()
    with monkeypatch.context() as patch:
        patch.setattr(LLM, "generate_async", refuse)
        [failed] = run(engine, request([20, 21]))
    assert isinstance(failed, RequestFailed) and "too long for it" in failed.message
    assert isinstance(run(engine, request([20, 21]))[-1], TokenEvent)


def test_an_executor_that_dies_takes_the_engine_with_it(start: StartEngine) -> None:
    from tensorrt_llm.executor.worker import FATAL_TOKEN

    engine = start()
    with pytest.raises(BackendDead, match="executor"):
        run(engine, request([FATAL_TOKEN, 1]))
    engine.submit(request([1, 2], request_id="b"))
    with pytest.raises(BackendDead, match="executor"):
        run(engine)


def test_an_executor_that_hangs_makes_no_progress(start: StartEngine) -> None:
    """So core, which watches for it, replaces the engine after `--step-timeout`."""
    from tensorrt_llm.executor.worker import STALLING_TOKEN

    engine = start()
    engine.submit(request([STALLING_TOKEN, 1]))
    watch = Watch()
    looks = []
    for _ in range(LOOKS):
        watch.hear(StepDone.of(list(engine.poll(0.01)), engine.stats()))
        looks.append(watch.look(at_work=engine.busy))
    assert looks == [False] * (LOOKS - 1) + [True]


@pytest.mark.parametrize(
    ("setting", "flag"),
    [
        ({"num_drafts": 2}, "--speculate"),
        ({"max_chunk_tokens": 64}, "--max-chunk-tokens"),
        ({"prefix_caching": False}, "--no-prefix-cache"),
    ],
)
def test_settings_of_cores_scheduler_are_refused_and_not_ignored(
    request_for: Callable[..., LoadRequest], setting: dict[str, Any], flag: str
) -> None:
    start = Start(load=request_for(), backend="trtllm", **setting)
    with pytest.raises(UsageError, match=flag):
        create_engine(start)
    assert isinstance(create_engine(Start(load=request_for(), backend="trtllm"))[0], TrtLlmEngine)


def chunk(*given: int, end: End | None = None, **more: Any) -> Chunk:
    return Chunk(**{"tokens": given, "logprobs": (), "end": end, "num_cached": 0, **more})


def test_several_tokens_at_once_are_cut_where_the_request_ends() -> None:
    stop = StopRule(max_new_tokens=8, eos_token_ids=(7,))
    answer = Answer(request([1, 2], stop=stop), 100)
    [_, first] = answer.take(chunk(3, 4))
    [second] = answer.take(chunk(5, 7, 9))
    assert isinstance(first, TokenEvent) and first.finish is None
    assert isinstance(second, TokenEvent)
    assert (second.tokens, second.finish) == ((5, 7), FinishReason.EOS)
    assert answer.ended


@pytest.mark.parametrize("end", [End.STOP, End.CANCELLED, End.TIMEOUT])
def test_an_end_that_nobody_asked_for_is_a_failure(end: End) -> None:
    answer = Answer(request([1, 2]), 100)
    answer.take(chunk(3))
    [failed] = answer.take(chunk(4, end=end))
    assert isinstance(failed, RequestFailed) and end.value in failed.message
    assert answer.ended


def test_a_token_without_its_logprob_is_a_failure() -> None:
    answer = Answer(request([1, 2], sampling=SamplingParams(logprobs=True)), 100)
    [_, failed] = answer.take(chunk(3, logprobs=({4: -0.5},)))
    assert isinstance(failed, RequestFailed) and "log-probability" in failed.message
