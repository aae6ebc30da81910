"""All that a backend or plugin may know of core: plain data and protocols, on numpy alone."""

from tgi_core.contract.adapters import AdapterRef, HoldsAdapters, version_of
from tgi_core.contract.adjustment import Adjustment, Boost
from tgi_core.contract.backend import (
    BackendKind,
    BackendSpec,
    Converter,
    DType,
    LoadRequest,
    ModelFiles,
    ModelFormat,
    PluginModule,
    Probe,
    Progress,
    Verdict,
)
from tgi_core.contract.batch import Step
from tgi_core.contract.capabilities import (
    ANY_LENGTH,
    AdapterRows,
    Capabilities,
    Fork,
    LogitsRows,
    Modality,
    TwoWay,
)
from tgi_core.contract.command import Command, CommandTools
from tgi_core.contract.dialect import (
    ChatDelta,
    ChatServer,
    Dialect,
    Embedded,
    Failure,
    Handler,
    HttpReply,
    HttpRequest,
    HttpStream,
    ModelCard,
    Route,
    TokenUsage,
    ToolCallDelta,
)
from tgi_core.contract.embedding import Embedding, Embeds, Pooling, pooled
from tgi_core.contract.engine import Engine, EngineInfo
from tgi_core.contract.events import (
    AdapterLoaded,
    Event,
    FinishReason,
    PromptEmbedded,
    PromptScored,
    RequestFailed,
    RequestStarted,
    TokenEvent,
    TopToken,
)
from tgi_core.contract.finished import FinishedRequest, FinishedSequence, RequestSink
from tgi_core.contract.guidance import (
    CompiledGrammar,
    GrammarCompiler,
    GuidanceEngine,
    Matcher,
    Vocabulary,
)
from tgi_core.contract.image import EncodesImages, Image, ReadImage, StepImage
from tgi_core.contract.memory import available_bytes
from tgi_core.contract.paging import BlockCopy, BlockPool, BlockTables
from tgi_core.contract.peft import LinearShape, LoraAdapter, LowRank, read_peft
from tgi_core.contract.queueing import QueuePolicy
from tgi_core.contract.request import Feature, Grammar, GrammarKind, Request, StopRule
from tgi_core.contract.result import HostLogits, PendingLogits, PendingTokens, SampledTokens
from tgi_core.contract.sampling import SamplingBatch, SamplingParams
from tgi_core.contract.sizes import SizeDefaults, Sizes, choose_sizes, step_limits
from tgi_core.contract.stats import DURATION_BOUNDS_S, BatchStats, Distribution, StepStats
from tgi_core.contract.step import BackendStats, SamplesOnDevice, StepBackend
from tgi_core.contract.tokenizer import Tokenizer, TokenSpan, TokenStream
from tgi_core.contract.toolcalls import ReasoningParser, TaggedArguments, ToolCallParser
from tgi_core.contract.version import CONTRACT, check_contract
from tgi_core.contract.warm_up import warm_up_with

__all__ = [
    "ANY_LENGTH",
    "CONTRACT",
    "DURATION_BOUNDS_S",
    "AdapterLoaded",
    "AdapterRef",
    "AdapterRows",
    "Adjustment",
    "BackendKind",
    "BackendSpec",
    "BackendStats",
    "BatchStats",
    "BlockCopy",
    "BlockPool",
    "BlockTables",
    "Boost",
    "Capabilities",
    "ChatDelta",
    "ChatServer",
    "Command",
    "CommandTools",
    "CompiledGrammar",
    "Converter",
    "DType",
    "Dialect",
    "Distribution",
    "Embedded",
    "Embedding",
    "Embeds",
    "EncodesImages",
    "Engine",
    "EngineInfo",
    "Event",
    "Failure",
    "Feature",
    "FinishReason",
    "FinishedRequest",
    "FinishedSequence",
    "Fork",
    "Grammar",
    "GrammarCompiler",
    "GrammarKind",
    "GuidanceEngine",
    "Handler",
    "HoldsAdapters",
    "HostLogits",
    "HttpReply",
    "HttpRequest",
    "HttpStream",
    "Image",
    "LinearShape",
    "LoadRequest",
    "LogitsRows",
    "LoraAdapter",
    "LowRank",
    "Matcher",
    "Modality",
    "ModelCard",
    "ModelFiles",
    "ModelFormat",
    "PendingLogits",
    "PendingTokens",
    "PluginModule",
    "Pooling",
    "Probe",
    "Progress",
    "PromptEmbedded",
    "PromptScored",
    "QueuePolicy",
    "ReadImage",
    "ReasoningParser",
    "Request",
    "RequestFailed",
    "RequestSink",
    "RequestStarted",
    "Route",
    "SampledTokens",
    "SamplesOnDevice",
    "SamplingBatch",
    "SamplingParams",
    "SizeDefaults",
    "Sizes",
    "Step",
    "StepBackend",
    "StepImage",
    "StepStats",
    "StopRule",
    "TaggedArguments",
    "TokenEvent",
    "TokenSpan",
    "TokenStream",
    "TokenUsage",
    "Tokenizer",
    "ToolCallDelta",
    "ToolCallParser",
    "TopToken",
    "TwoWay",
    "Verdict",
    "Vocabulary",
    "available_bytes",
    "check_contract",
    "choose_sizes",
    "pooled",
    "read_peft",
    "step_limits",
    "version_of",
    "warm_up_with",
]
