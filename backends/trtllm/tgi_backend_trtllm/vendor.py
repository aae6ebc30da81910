"""All that is TensorRT-LLM's: its names, what it takes, and what its answers look like.

Written for the LLM API of releases 1.2 and 1.3 in their PyTorch flow, which schedules by itself and
promises no step. The only module that imports the library: what replaces it replaces this one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import tensorrt_llm
import torch
from tensorrt_llm.llmapi import (
    LLM,
    GuidedDecodingParams,
    KvCacheConfig,
    LoRARequest,
    RequestError,
)
from tensorrt_llm.llmapi import SamplingParams as VendorSampling
from tensorrt_llm.llmapi.llm_args import LoraConfig
from tensorrt_llm.llmapi.utils import get_device_count

from tgi_backend_trtllm.job import Chunk, End, Job, JobRefused, Load
from tgi_backend_trtllm.options import ModelSetup
from tgi_core.contract import Feature, Grammar, GrammarKind
from tgi_core.errors import DoesNotFit, SetupError

_FEATURES = {
    (1, 2): frozenset({Feature.LOGPROBS, Feature.LOGIT_BIAS, Feature.GRAMMAR}),
}
# 1.2's sampler takes seeds and penalties, and ignores them in silence (its pull requests 16485
# and 17172 tell)
_FEATURES[1, 3] = _FEATURES[1, 2] | {Feature.SEED, Feature.PENALTIES, Feature.MIN_P}

GRAMMAR_KINDS = frozenset({GrammarKind.JSON_SCHEMA, GrammarKind.REGEX, GrammarKind.LARK})
"""What its llguidance takes."""
ADAPTED = {
    "attn_q": "q_proj",
    "attn_k": "k_proj",
    "attn_v": "v_proj",
    "attn_dense": "o_proj",
    "mlp_h_to_4h": "gate_proj",
    "mlp_gate": "up_proj",
    "mlp_4h_to_h": "down_proj",
}
"""Its names for the layers that adapters may change, and Hugging Face's."""
_STATS_WAIT_S = 0.1


def version() -> str:
    """Of the installed library."""
    return str(tensorrt_llm.__version__)


def is_known(release: str) -> bool:
    """Whether this module was written for it."""
    return _line(release) in _FEATURES


def features(release: str) -> frozenset[Feature]:
    """What a request may ask for; adapters are the operator's choice."""
    return _FEATURES[_line(release)]


def num_gpus() -> int:
    """Of this machine."""
    return int(get_device_count())


def _line(release: str) -> tuple[int, int]:
    major, minor = release.split(".")[:2]
    return int(major), int(minor)


class Model:
    """A loaded model. All but the constructor and `close` are called from one event loop."""

    def __init__(self, setup: ModelSetup) -> None:
        """Loads; with several GPUs, starts a process for each.

        Raises:
            DoesNotFit: the GPU has too little memory.
            SetupError: the model cannot be served; in the library's words.
        """
        self._setup = setup
        more: dict[str, Any] = {}
        if setup.adapters is not None:
            more["lora_config"] = LoraConfig(
                lora_target_modules=list(ADAPTED),
                trtllm_modules_to_hf_modules=dict(ADAPTED),
                max_lora_rank=setup.adapters.max_rank,
                max_loras=setup.adapters.most,
                max_cpu_loras=setup.adapters.most,
            )
        try:
            self._llm = LLM(
                model=str(setup.path),
                dtype=setup.dtype,
                tensor_parallel_size=setup.num_gpus,
                max_batch_size=setup.max_rows,
                max_num_tokens=setup.max_step_tokens,
                max_seq_len=setup.max_sequence_tokens,
                # the API layer takes prompts that are longer than a step
                enable_chunked_prefill=True,
                # what it compiles was tried by core with the same library before
                guided_decoding_backend="llguidance",
                enable_iter_perf_stats=True,
                kv_cache_config=KvCacheConfig(
                    max_tokens=setup.cache_tokens,
                    free_gpu_memory_fraction=setup.memory_fraction,
                    dtype=setup.cache_dtype,
                    enable_block_reuse=True,
                ),
                **more,
            )
        except Exception as error:  # whatever loads a model raises, wrapped or not
            raise _setup_error(error) from error

    def generate(self, job: Job) -> Generation:
        """Queues a generation.

        Raises:
            JobRefused: the executor does not take it.
            RuntimeError: the executor is gone.
        """
        more = {"cache_salt": job.cache_salt} if job.cache_salt else {}
        try:
            output = self._llm.generate_async(
                {"prompt_token_ids": list(job.prompt)},
                sampling_params=self._sampling(job),
                lora_request=_lora(job),
                streaming=True,
                **more,
            )
        except (ValueError, RequestError) as error:
            raise JobRefused(str(error)) from error
        return Generation(output)

    async def loads(self) -> AsyncIterator[Load]:
        """Gauges of the iterations since the last call."""
        async for stats in self._llm.get_stats_async(timeout=_STATS_WAIT_S):
            yield _load_of(stats)

    def close(self) -> None:
        """Ends the executor and its processes."""
        self._llm.shutdown()

    def _sampling(self, job: Job) -> Any:
        wants = job.sampling
        fields: dict[str, Any] = {"top_k": 1} if wants.greedy else _draw(job)
        if wants.logit_bias:
            bias = torch.zeros(self._setup.vocab_size, dtype=torch.float32)
            for token, value in wants.logit_bias:
                bias[token] += value
            fields["embedding_bias"] = bias
        if wants.penalized:
            fields |= {
                "repetition_penalty": wants.repetition_penalty,
                "presence_penalty": wants.presence_penalty,
                "frequency_penalty": wants.frequency_penalty,
                # or the prompt would count for the latter two
                "prompt_ignore_length": job.num_given,
            }
        if wants.logprobs or wants.num_top:
            fields["logprobs"] = max(1, wants.num_top)
        if job.grammar is not None:
            fields["guided_decoding"] = _guided(job.grammar)
        return VendorSampling(
            max_tokens=job.max_tokens,
            # without one the library adds the ends of generation_config.json; it is not heeded, for
            # whether it is told differs: each token that ends a sequence is a stop token
            end_id=0,
            ignore_eos=True,
            stop_token_ids=list(job.end_tokens) or None,
            include_stop_str_in_output=True,
            detokenize=False,
            **fields,
        )


class Generation:
    """One that the executor works on."""

    def __init__(self, output: Any) -> None:
        self._output = output
        self._num_told = 0

    async def chunks(self) -> AsyncIterator[Chunk]:
        """What is new, whenever there is something; ends with the generation.

        Raises:
            JobRefused: it failed, and it alone.
        """
        try:
            async for output in self._output:
                yield self._chunk(output)
        except RequestError as error:
            raise JobRefused(str(error)) from error

    def abort(self) -> None:
        """Frees what it holds; it ends soon."""
        self._output.abort()

    def _chunk(self, output: Any) -> Chunk:
        [completion] = output.outputs
        new = slice(self._num_told, len(completion.token_ids))
        self._num_told = new.stop
        told = (completion.logprobs or ())[new]
        return Chunk(
            tokens=tuple(completion.token_ids[new]),
            logprobs=tuple({token: one.logprob for token, one in row.items()} for row in told),
            end=End(completion.finish_reason or "cancelled") if output.finished else None,
            num_cached=output.cached_tokens,
        )


def _draw(job: Job) -> dict[str, Any]:
    wants = job.sampling
    fields: dict[str, Any] = {
        "temperature": wants.temperature,
        "top_k": wants.top_k,
        "top_p": wants.top_p,
    }
    if wants.min_p:
        fields["min_p"] = wants.min_p
    if Feature.SEED in features(version()):
        # draws of what was generated before are not made again
        fields["seed"] = (wants.seed + len(job.prompt) - job.num_given) % 2**64
    return fields


def _guided(grammar: Grammar) -> Any:
    match grammar.kind:
        case GrammarKind.JSON_SCHEMA:
            return GuidedDecodingParams(json=grammar.text)
        case GrammarKind.REGEX:
            return GuidedDecodingParams(regex=grammar.text)
        case GrammarKind.LARK:
            # llguidance reads Lark where xgrammar reads EBNF
            return GuidedDecodingParams(grammar=grammar.text)
        case GrammarKind.GBNF:
            raise AssertionError("the engine refuses what is not in GRAMMAR_KINDS")


def _lora(job: Job) -> Any:
    if job.adapter is None:
        return None
    number = job.adapter.number
    return LoRARequest(f"adapter-{number}", number, str(job.adapter.path))


def _load_of(stats: Mapping[str, Any]) -> Load:
    cache = stats.get("kvCacheStats") or {}
    block = cache.get("tokensPerBlock", 0)
    return Load(
        steps=stats.get("iter", 0),
        cache_tokens_used=cache.get("usedNumBlocks", 0) * block,
        cache_tokens=cache.get("maxNumBlocks", 0) * block,
        memory_bytes=stats.get("gpuMemUsage", 0),
    )


def _setup_error(error: Exception) -> SetupError:
    causes: list[str] = []
    at: BaseException | None = error
    while at is not None:
        causes.append(str(at) or type(at).__name__)
        at = at.__cause__ or at.__context__
    told = "; ".join(dict.fromkeys(cause.splitlines()[0] for cause in causes))
    if "out of memory" in told.lower():
        return DoesNotFit(
            f"the GPU's memory does not hold the model ({told}): share it among more GPUs with "
            "--num-shard, serve a quantized checkpoint, or shorten --max-total-tokens."
        )
    return SetupError(
        f"TensorRT-LLM cannot serve this model ({told}): see its list of supported models, or "
        "choose another backend with --backend."
    )
