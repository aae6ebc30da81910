"""Loads backends and plugins and calls their hooks: one method per hook, checked results.

Each process makes one `Plugins` and hands it on. Knows nothing of what a backend or a policy does.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import pluggy

from tgi_core import __version__
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
    Route,
    Speculator,
    Tokenizer,
    ToolCallParser,
)
from tgi_core.errors import (
    ModelNotFound,
    PluginConflict,
    PluginError,
    PluginLoadError,
    UnknownPlugin,
)
from tgi_core.plugin.catalog import Installed, PluginKind, find, installed
from tgi_core.plugin.checks import (
    BACKEND_HOOK,
    ask,
    check_claim,
    check_hooks,
    check_items,
    check_members,
    check_type,
    import_plugin,
    new_manager,
    wrong_type,
)
from tgi_core.plugin.choose import choose_backend

logger = logging.getLogger(__name__)

P = TypeVar("P", ToolCallParser, ReasoningParser, Command)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backends:
    """The outcome of loading all installed backends."""

    specs: Mapping[str, BackendSpec]
    failures: Mapping[str, PluginError]
    """Why the others could not be loaded."""


class Plugins:
    """The plugins of one process. Those registered later are asked first, built-in ones last."""

    def __init__(
        self, disabled: frozenset[str] = frozenset(), builtins: Sequence[object] = ()
    ) -> None:
        """Registers the built-in plugins; `load_plugins` adds the installed ones.

        Args:
            disabled: names of backends and plugins that must not be loaded.
            builtins: modules with hook implementations, named by the last part of their name.

        Raises:
            PluginError: a built-in plugin has a fault.
        """
        self._disabled = disabled
        self._manager = new_manager()
        self._sources: dict[str, Installed] = {}
        for module in builtins:
            self._register(_builtin(module), module)

    def load_plugins(self) -> None:
        """Loads all of the group `tgi.plugins` but those that are disabled.

        Raises:
            PluginError: one of them has a fault; none is skipped in silence.
        """
        for name in dict.fromkeys(entry.name for entry in installed(PluginKind.PLUGIN)):
            if name not in self._disabled:
                self.load_plugin(name)

    def load_plugin(self, name: str) -> tuple[str, ...]:
        """Loads one of the group `tgi.plugins`.

        Returns:
            The hooks that it implements.

        Raises:
            PluginError: it is unknown, disabled, doubled, or has a fault; then nothing changed.
        """
        source = self._find(PluginKind.PLUGIN, name)
        return self._register(source, import_plugin(source))

    def load_backend(self, name: str) -> BackendSpec:
        """Hook `tgi_backend`: loads one backend and nothing else of its group.

        Raises:
            UnknownPlugin: it is not installed, or disabled.
            PluginConflict: two distributions offer it.
            PluginContractError: it was written for another contract.
            UnknownHook, PluginLoadError: its module has a fault.
        """
        source = self._find(PluginKind.BACKEND, name)
        module = import_plugin(source)
        check_hooks(source, module)
        manager = new_manager()
        manager.register(module, name)
        [implementation] = manager.hook.tgi_backend.get_hookimpls()
        found = check_type(source, BACKEND_HOOK, ask(source, implementation, {}), BackendSpec)
        if found.name != name:
            raise PluginLoadError(
                f"the {source} calls itself {found.name!r}: the name in its BackendSpec must be "
                "that of its entry point."
            )
        check_claim(source, name, found.contract)
        return found

    def load_all_backends(self) -> Backends:
        """Loads every installed backend that is not disabled, and keeps the reasons of failures."""
        specs: dict[str, BackendSpec] = {}
        failures: dict[str, PluginError] = {}
        for entry in installed(PluginKind.BACKEND):
            if entry.name in self._disabled or entry.name in failures:
                continue
            try:
                specs[entry.name] = self.load_backend(entry.name)
            except PluginError as error:
                failures[entry.name] = error
        return Backends(specs=specs, failures=failures)

    def backend(self, files: ModelFiles, wanted: str | None = None) -> BackendSpec:
        """The backend for a model; loads only the wanted one if there is a wish.

        Raises:
            BackendUnavailable, PluginError: see `choose_backend` and `load_backend`.
        """
        if wanted is not None:
            return choose_backend(files, wanted, [self.load_backend(wanted)])
        backends = self.load_all_backends()
        chosen = choose_backend(files, None, backends.specs.values(), backends.failures)
        for error in backends.failures.values():
            logger.warning("not considered: %s", error)
        return chosen

    def model_source(self, reference: str, revision: str | None = None) -> ModelFiles:
        """Hook `tgi_model_source`: the files that a reference stands for.

        Raises:
            ModelNotFound: no plugin knows the reference, or it leads nowhere.
        """
        asked = {"reference": reference, "revision": revision}
        for source, answer in self._answers("tgi_model_source", **asked):
            if answer is not None:
                return check_type(source, "tgi_model_source", answer, ModelFiles)
        raise ModelNotFound(
            f"{reference!r} is neither a model folder nor a GGUF file on this machine, nor "
            "anything else that an installed plugin can resolve."
        )

    def model_heads(self, reference: str, revision: str | None, folder: Path) -> ModelFiles:
        """Hook `tgi_model_heads`: the files that a reference stands for, weights perhaps left out.

        Raises:
            ModelNotFound: no plugin knows the reference, or it leads nowhere.
        """
        asked = {"reference": reference, "revision": revision, "folder": folder}
        for source, answer in self._answers("tgi_model_heads", **asked):
            if answer is not None:
                return check_type(source, "tgi_model_heads", answer, ModelFiles)
        return self.model_source(reference, revision)

    def load_tokenizer(self, files: ModelFiles) -> Tokenizer | None:
        """Hook `tgi_load_tokenizer`: the model's tokenizer, or None if no plugin can load it."""
        for source, answer in self._answers("tgi_load_tokenizer", files=files):
            if answer is not None:
                check_members(source, "tgi_load_tokenizer", answer, Tokenizer)
                return cast(Tokenizer, answer)
        return None

    def queue_policies(self) -> dict[str, QueuePolicy]:
        """Hook `tgi_queue_policies`: all policies by name.

        Raises:
            PluginConflict: two plugins offer one name.
        """
        return self._by_name("tgi_queue_policies", QueuePolicy, "queue policy")

    def guidance_engines(self) -> dict[str, GuidanceEngine]:
        """Hook `tgi_guidance_engines`: all engines by name.

        Raises:
            PluginConflict: two plugins offer one name.
        """
        return self._by_name("tgi_guidance_engines", GuidanceEngine, "guidance engine")

    def routes(self) -> list[Dialect]:
        """Hook `tgi_routes`: all dialects, in order of name.

        Raises:
            PluginConflict: one address is answered twice.
            PluginContractError: one was written for another contract.
        """
        dialects: list[Dialect] = []
        owners: dict[tuple[str, str], Installed] = {}
        for source, answer in self._answers("tgi_routes"):
            for dialect in check_items(source, "tgi_routes", answer, Dialect):
                check_claim(source, dialect.name, dialect.contract)
                for route in check_items(source, "tgi_routes", dialect.routes, Route):
                    address = (route.method, route.path)
                    if address in owners:
                        raise PluginConflict(
                            f"{route.method} {route.path} is answered twice, by the "
                            f"{owners[address]} and by the {source}. Leave one of them out with "
                            "--disable-plugin."
                        )
                    owners[address] = source
                dialects.append(dialect)
        return sorted(dialects, key=lambda dialect: dialect.name)

    def request_sinks(
        self, otlp_endpoint: str | None, otlp_service_name: str
    ) -> dict[str, RequestSink]:
        """Hook `tgi_request_sinks`: all sinks by name.

        Raises:
            PluginConflict: two plugins offer one name.
        """
        return self._by_name(
            "tgi_request_sinks",
            RequestSink,
            "sink",
            otlp_endpoint=otlp_endpoint,
            otlp_service_name=otlp_service_name,
        )

    def adjustments(
        self, watermark_gamma: float, watermark_delta: float, watermark_key: int
    ) -> dict[str, Adjustment]:
        """Hook `tgi_adjustments`: all adjustments by name.

        Raises:
            PluginConflict: two plugins offer one name.
        """
        return self._by_name(
            "tgi_adjustments",
            Adjustment,
            "adjustment",
            watermark_gamma=watermark_gamma,
            watermark_delta=watermark_delta,
            watermark_key=watermark_key,
        )

    def speculators(self) -> dict[str, Speculator]:
        """Hook `tgi_speculators`: all speculators by name.

        Raises:
            PluginConflict: two plugins offer one name.
        """
        return self._by_name("tgi_speculators", Speculator, "speculator")

    def commands(self) -> dict[str, Command]:
        """Hook `tgi_commands`: all commands by name.

        Raises:
            PluginConflict: two plugins offer one name.
            PluginContractError: one was written for another contract.
        """
        return self._claimed("tgi_commands", Command, "command")

    def tool_parsers(self) -> dict[str, ToolCallParser]:
        """Hook `tgi_tool_parsers`: all formats by name, those of core last.

        Raises:
            PluginConflict: two plugins offer one name.
            PluginContractError: one was written for another contract.
        """
        return self._claimed("tgi_tool_parsers", ToolCallParser, "tool parser")

    def reasoning_parsers(self) -> dict[str, ReasoningParser]:
        """Hook `tgi_reasoning_parsers`: all marks by name, those of core last.

        Raises:
            PluginConflict: two plugins offer one name.
            PluginContractError: one was written for another contract.
        """
        return self._claimed("tgi_reasoning_parsers", ReasoningParser, "reasoning parser")

    def _claimed(self, hook: str, wanted: type[P], what: str) -> dict[str, P]:
        """All items of a kind that says which contract it was written for, by name."""
        found: dict[str, P] = {}
        owners: dict[str, Installed] = {}
        for source, answer in self._answers(hook):
            for item in check_items(source, hook, answer, wanted):
                check_claim(source, item.name, item.contract)
                if item.name in owners:
                    raise PluginConflict(
                        f"two plugins offer a {what} named {item.name!r}: the "
                        f"{owners[item.name]} and the {source}. Leave one of them out with "
                        "--disable-plugin."
                    )
                found[item.name], owners[item.name] = item, source
        return found

    def _find(self, kind: PluginKind, name: str) -> Installed:
        if name in self._disabled:
            raise UnknownPlugin(f"the {kind.value} {name!r} is disabled by --disable-plugin.")
        return find(kind, name)

    def _register(self, source: Installed, module: object) -> tuple[str, ...]:
        if source.name in self._disabled:
            return ()
        if source.name in self._sources:
            raise PluginConflict(
                f"the {source} has the name of the {self._sources[source.name]}, which is loaded "
                "already. Leave one of them out with --disable-plugin."
            )
        hooks = check_hooks(source, module)
        self._manager.register(module, source.name)
        self._sources[source.name] = source
        return hooks

    def _by_name(self, hook: str, protocol: type, what: str, **arguments: object) -> dict[str, Any]:
        """All that the plugins offer of a kind that has names; no name may be offered twice."""
        found: dict[str, Any] = {}
        owners: dict[str, Installed] = {}
        for source, answer in self._answers(hook, **arguments):
            if not isinstance(answer, Sequence):
                raise wrong_type(source, hook, answer, Sequence)
            for item in answer:
                check_members(source, hook, item, protocol)
                name = cast(Any, item).name
                if name in owners:
                    raise PluginConflict(
                        f"two plugins offer a {what} named {name!r}: the {owners[name]} and the "
                        f"{source}. Leave one of them out with --disable-plugin."
                    )
                found[name], owners[name] = item, source
        return found

    def _answers(self, hook: str, **arguments: object) -> Iterator[tuple[Installed, object]]:
        """Each plugin's answer with its source, in pluggy's order, asked one at a time.

        Calling through pluggy would lose who answered, and an error has to name that one.
        """
        caller: pluggy.HookCaller = getattr(self._manager.hook, hook)
        for implementation in reversed(caller.get_hookimpls()):
            source = self._sources[implementation.plugin_name]
            yield source, ask(source, implementation, arguments)


def _builtin(module: object) -> Installed:
    name = new_manager().get_canonical_name(module)
    return Installed(
        kind=PluginKind.PLUGIN,
        name=name.rpartition(".")[2],
        module=name,
        distribution="tgi-core",
        version=__version__,
    )
