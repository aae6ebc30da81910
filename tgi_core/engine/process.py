"""Entry of the engine process: `python -m tgi_core.engine.process SOCKET`.

Chooses and loads the backend, reports progress, then serves until the API process goes away.
"""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from time import monotonic

from tgi_core.builtin import draft_model as draft_models
from tgi_core.builtin import guidance, medusa, ngram, queue_policies
from tgi_core.config.sources import environment
from tgi_core.contract import (
    BackendKind,
    BackendSpec,
    Engine,
    EngineInfo,
    Feature,
    Progress,
    StepBackend,
)
from tgi_core.engine.guidance import Guidance, choose_guidance_engine
from tgi_core.engine.limits import EngineLimits
from tgi_core.engine.loop import serve
from tgi_core.engine.speculation import Drafting, DraftModel, choose_speculator
from tgi_core.engine.step_engine import StepEngine
from tgi_core.engine.variables import with_variables
from tgi_core.errors import OutOfResources, SetupError, UsageError
from tgi_core.ipc.messages import Loading, Ready, SetupFailed, Start
from tgi_core.ipc.server import EngineSocket
from tgi_core.observe.logging import configure_logging
from tgi_core.plugin.choose import refuse_shards
from tgi_core.plugin.manager import Plugins

logger = logging.getLogger(__name__)

_PROGRESS_INTERVAL_S = 0.1


def main(socket_path: str) -> int:
    """Returns the exit status, if the process ends by itself."""
    channel = EngineSocket(socket_path)
    start = channel.receive(None)
    if not isinstance(start, Start):
        raise ValueError("the first message must be Start")
    configure_logging(start.log_level, json_lines=start.json_logs)
    try:
        engine, spec = create_engine(start)
        load = with_variables(start.load, spec, environment())
        info = offered(engine.start(load, _reporter(channel)), start)
    except SetupError as error:
        return _give_up(channel, error)
    except (OSError, MemoryError) as error:
        shortage = OutOfResources.behind(error)
        if shortage is None:
            raise
        return _give_up(channel, shortage)
    # what lives now lives for ever; looking at it again would only make steps late
    gc.collect()
    gc.freeze()
    channel.send(Ready(info, spec.name))
    serve(engine, channel)
    return 0


def _give_up(channel: EngineSocket, error: SetupError) -> int:
    channel.send(SetupFailed(type(error).__name__, str(error)))
    return error.exit_code


def create_engine(start: Start) -> tuple[Engine, BackendSpec]:
    """The engine that the model, the machine and the operator's wishes call for.

    Raises:
        SetupError: no backend, a broken plugin, or a queue policy, guidance engine or
            speculator that does not exist.
    """
    plugins = Plugins(
        builtins=(queue_policies, guidance, ngram, draft_models, medusa),
        disabled=frozenset(start.disabled_plugins),
    )
    if not start.only_builtin_plugins:
        plugins.load_plugins()
    policies = plugins.queue_policies()
    policy = policies.get(start.queue_policy)
    if policy is None:
        raise UsageError(
            f"there is no queue policy {start.queue_policy!r}; there are: "
            f"{', '.join(sorted(policies))}."
        )
    guided = None
    if start.guidance_engine is not None:
        guided = Guidance(choose_guidance_engine(plugins, start.guidance_engine))
    adjustments = plugins.adjustments(
        start.watermark_gamma, start.watermark_delta, start.watermark_key
    )
    spec = plugins.backend(start.load.model, start.backend)
    refuse_shards(spec, start.load.num_shards)
    backend = spec.create()
    if spec.kind is BackendKind.ENGINE:
        _refuse_scheduling(start, spec)
        return backend, spec  # type: ignore[return-value]
    limits = EngineLimits(
        max_step_tokens=start.max_step_tokens,
        max_chunk_tokens=start.max_chunk_tokens,
        prefix_caching=start.prefix_caching,
        num_drafts=start.num_drafts,
    )
    engine = StepEngine(
        backend,  # type: ignore[arg-type]
        policy,
        limits,
        guided,
        adjustments,
        _drafting(start, plugins, spec.create),  # type: ignore[arg-type]
    )
    return engine, spec


def offered(info: EngineInfo, start: Start) -> EngineInfo:
    """What requests may ask for: an engine does not know what the operator wants of it."""
    if start.guidance_engine is None:
        return replace(info, features=info.features - {Feature.GRAMMAR})
    return info


def _refuse_scheduling(start: Start, spec: BackendSpec) -> None:
    """Settings of core's scheduler, which an engine with one of its own would never hear of."""
    for flag, given in {
        "--speculate": start.num_drafts > 0,
        "--max-chunk-tokens": start.max_chunk_tokens is not None,
        "--no-prefix-cache": not start.prefix_caching,
    }.items():
        if given:
            raise UsageError(
                f"the backend {spec.name} schedules by itself and has no use for {flag}: leave it "
                f"out, or see whether {spec.name} has an option for it (--backend-option)."
            )


def _drafting(start: Start, plugins: Plugins, create: Callable[[], StepBackend]) -> Drafting | None:
    if not start.num_drafts:
        return None
    speculator = choose_speculator(plugins, start.speculator)
    if start.draft_model is None:
        return Drafting(speculator)
    return Drafting(speculator, DraftModel(start.draft_model, create))


def _reporter(channel: EngineSocket) -> Progress:
    """Sends progress on, but not each of a thousand tensors."""
    last = ("", 0.0)

    def report(phase: str, done: float, total: float, unit: str = "") -> None:
        nonlocal last
        now = monotonic()
        if phase != last[0] or done >= total or now - last[1] >= _PROGRESS_INTERVAL_S:
            channel.send(Loading(phase, done, total, unit))
            last = (phase, now)

    return report


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
