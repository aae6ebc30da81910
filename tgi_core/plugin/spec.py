"""The hooks: everything that a plugin can add.

Hooks run at start-up, never per step or token. Each returns typed objects, which core then calls
directly. The first line of a docstring names the process that runs the hook.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tgi_core.plugin import hookspec

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tgi_core.contract import (
        Adjustment,
        BackendSpec,
        Command,
        Dialect,
        GuidanceEngine,
        ModelFiles,
        QueuePolicy,
        ReasoningParser,
        RequestSink,
        Speculator,
        Tokenizer,
        ToolCallParser,
    )


@hookspec
def tgi_backend() -> BackendSpec:  # type: ignore[empty-body]
    """Engine process. Introduces a backend; only for modules in the group `tgi.backends`.

    Example:
        @hookimpl
        def tgi_backend():
            return BackendSpec(name="mine", contract=(1, 0), probe=probe, accepts=accepts,
                               create=MyBackend)
    """


@hookspec(firstresult=True)
def tgi_model_source(reference: str, revision: str | None) -> ModelFiles | None:
    """API process. Turns what the user wrote after `serve` into files on this machine.

    It may take long, and runs in a thread of its own. `revision` is what `--revision` says; leave
    the argument out if that means nothing to you.

    None leaves it to the next plugin. Raise ModelNotFound if the reference is yours and leads
    nowhere.

    Example:
        @hookimpl
        def tgi_model_source(reference):
            if reference.startswith("s3://"):
                return fetch(reference)
    """


@hookspec(firstresult=True)
def tgi_model_heads(reference: str, revision: str | None, folder: Path) -> ModelFiles | None:
    """The process of a command. Like `tgi_model_source`, but nobody will read a weight.

    Files that say what a model is must be whole; of files of weights the beginning, which says
    which tensors there are, is enough if the size is right. `folder` is empty, and for you to
    write to. None leaves it to the next plugin; if all do, `tgi_model_source` is asked.

    Example:
        @hookimpl
        def tgi_model_heads(reference, folder):
            if reference.startswith("s3://"):
                return fetch_beginnings(reference, folder)
    """


@hookspec(firstresult=True)
def tgi_load_tokenizer(files: ModelFiles) -> Tokenizer | None:
    """API process. Loads the tokenizer of a model; None leaves it to the next plugin.

    Example:
        @hookimpl
        def tgi_load_tokenizer(files):
            if (files.path / "tekken.json").exists():
                return TekkenTokenizer(files.path)
    """


@hookspec
def tgi_queue_policies() -> Sequence[QueuePolicy]:  # type: ignore[empty-body]
    """Engine process. Offers orders of admission, chosen with `--queue-policy NAME`.

    Example:
        @hookimpl
        def tgi_queue_policies():
            return [ShortestFirst()]
    """


@hookspec
def tgi_routes() -> Sequence[Dialect]:  # type: ignore[empty-body]
    """API process. Adds HTTP dialects: routes that answer beside core's own.

    Example:
        @hookimpl
        def tgi_routes():
            return [Dialect(name="mine", contract=(1, 0), failure=failure,
                            routes=[Route(method="POST", path="/mine", handler=answer)])]
    """


@hookspec
def tgi_request_sinks(  # type: ignore[empty-body]
    otlp_endpoint: str | None, otlp_service_name: str
) -> Sequence[RequestSink]:
    """API process. Adds sinks: each is told of every request when it has been answered.

    The arguments are `--otlp-endpoint` and `--otlp-service-name`. If there is an endpoint, the sink
    that sends traces there must be named "otlp".

    Example:
        @hookimpl
        def tgi_request_sinks():
            return [StatsdSink()]
    """


@hookspec
def tgi_guidance_engines() -> Sequence[GuidanceEngine]:  # type: ignore[empty-body]
    """Any process. Offers ways to keep outputs within grammars; `--guidance-engine NAME` chooses.

    Grammars are tried in a process of their own first, then compiled in the engine process.

    Example:
        @hookimpl
        def tgi_guidance_engines():
            return [MyGuidanceEngine()]
    """


@hookspec
def tgi_adjustments(  # type: ignore[empty-body]
    watermark_gamma: float, watermark_delta: float, watermark_key: int
) -> Sequence[Adjustment]:
    """Engine process. Offers adjustments of logits, which requests ask for by name.

    The arguments are `--watermark-gamma`, `--watermark-delta` and `--watermark-key`. An adjustment
    named "watermark" is what `"watermark": true` in a request asks for.

    Example:
        @hookimpl
        def tgi_adjustments(watermark_delta):
            return [Watermark(watermark_delta)]
    """


@hookspec
def tgi_speculators() -> Sequence[Speculator]:  # type: ignore[empty-body]
    """Engine process. Offers ways to guess tokens ahead, chosen with `--speculator NAME`.

    Drafts change the speed and never the output.

    Example:
        @hookimpl
        def tgi_speculators():
            return [MySpeculator()]
    """


@hookspec
def tgi_commands() -> Sequence[Command]:  # type: ignore[empty-body]
    """The process of a command. Adds commands to `tgi`, beside core's own.

    Example:
        @hookimpl
        def tgi_commands():
            return [Command(name="mine", contract=(1, 0), summary="does it",
                            add_arguments=add_arguments, run=run)]
    """


@hookspec
def tgi_tool_parsers() -> Sequence[ToolCallParser]:  # type: ignore[empty-body]
    """API process. Offers formats of tool calls; `--tool-call-parser NAME` chooses, or the model.

    Example:
        @hookimpl
        def tgi_tool_parsers():
            return [ToolCallParser(name="mine", contract=(1, 0), signs=("<call>",),
                                   openings=("<call>",), closings=("</call>",))]
    """


@hookspec
def tgi_reasoning_parsers() -> Sequence[ReasoningParser]:  # type: ignore[empty-body]
    """API process. Offers marks of reasoning; `--reasoning-parser NAME` chooses, or the model.

    Example:
        @hookimpl
        def tgi_reasoning_parsers():
            return [ReasoningParser(name="mine", contract=(1, 0), signs=("<hm>",), begin="<hm>",
                                    end="</hm>")]
    """
