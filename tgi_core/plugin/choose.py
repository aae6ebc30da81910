"""Which backend serves a model: the one asked for, or the best that can.

Knows nothing of how backends are found and loaded. Asks each backend as little as it can, since a
probe may import a device library.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from itertools import groupby

from tgi_core.contract import BackendSpec, ModelFiles, ModelFormat, Probe, Verdict
from tgi_core.errors import BackendUnavailable, PluginError, UnknownPlugin, UsageError

logger = logging.getLogger(__name__)

_FIRST_PARTY = {ModelFormat.SAFETENSORS: ("torch", "cpu"), ModelFormat.GGUF: ("llamacpp",) * 2}
"""The backend of ours that serves a format on any machine, and the extra that installs it."""


def choose_backend(
    files: ModelFiles,
    wanted: str | None,
    specs: Iterable[BackendSpec],
    failures: Mapping[str, PluginError] | None = None,
) -> BackendSpec:
    """The backend named `wanted`; without a name, the best one for these files.

    A backend that is asked for by name need not accept the files: it may know better when it
    loads them. Otherwise, of those that accept the files, are available and want to be chosen, the
    highest priority is taken.

    Args:
        files: the model.
        wanted: what `--backend` says, if anything.
        specs: the backends that could be loaded.
        failures: why others could not be loaded, by name.

    Raises:
        BackendUnavailable: nothing can serve the model, or two can equally well.
        UnknownPlugin: there is no backend of the wanted name.
        PluginError: the wanted backend could not be loaded.
    """
    known = {spec.name: spec for spec in specs}
    broken = dict(failures or {})
    if wanted is not None:
        return _named(wanted, known, broken)
    reasons = {name: str(error) for name, error in broken.items()}
    accepting = []
    for spec in known.values():
        verdict = _verdict(spec, files)
        if verdict.accepted:
            accepting.append(spec)
        else:
            reasons[spec.name] = verdict.reason or "does not accept this model"
    accepting.sort(key=lambda spec: -spec.priority)
    for _, equals in groupby(accepting, key=lambda spec: spec.priority):
        available = []
        for spec in equals:
            found = probe(spec)
            if found.available and not found.by_name_only:
                available.append(spec)
            else:
                reasons[spec.name] = found.reason or "not available on this machine"
        if len(available) == 1:
            _tell_who_was_better(available[0], known, reasons)
            return available[0]
        if available:
            names = sorted(spec.name for spec in available)
            flags = " or ".join(f"--backend {name}" for name in names)
            raise BackendUnavailable(
                f"{' and '.join(names)} can serve {files.reference} equally well. Say which one: "
                f"{flags}."
            )
    raise BackendUnavailable(_nothing(files, reasons))


def probe(spec: BackendSpec) -> Probe:
    """What the backend finds on this machine; one that raises, against its promise, is broken."""
    try:
        found: object = spec.probe()
    except Exception as error:
        return Probe(available=False, reason=f"its probe raised {type(error).__name__}: {error}")
    if not isinstance(found, Probe):
        return Probe(
            available=False, reason=f"its probe returned a {type(found).__name__}, not a Probe"
        )
    return found


def refuse_shards(spec: BackendSpec, num_shards: int | None) -> None:
    """Refuses several devices for a backend that uses one.

    Raises:
        UsageError: with what to do.
    """
    if (num_shards or 1) > 1 and not spec.shards:
        raise UsageError(
            f"the backend {spec.name} runs a model on one device, and --num-shard asks for "
            f"{num_shards}: leave it out, or choose another backend with --backend, such as torch."
        )


def _tell_who_was_better(
    chosen: BackendSpec, known: Mapping[str, BackendSpec], reasons: Mapping[str, str]
) -> None:
    """Says why the model does not run on a backend that would have come first."""
    for name, reason in reasons.items():
        if name in known and known[name].priority > chosen.priority:
            logger.info("%s serves the model, not %s: %s", chosen.name, name, reason)


def _verdict(spec: BackendSpec, files: ModelFiles) -> Verdict:
    try:
        verdict: object = spec.accepts(files)
    except Exception as error:
        return Verdict(False, f"its accepts raised {type(error).__name__}: {error}")
    if not isinstance(verdict, Verdict):
        return Verdict(False, f"its accepts returned a {type(verdict).__name__}, not a Verdict")
    return verdict


def _named(
    wanted: str, known: Mapping[str, BackendSpec], broken: Mapping[str, PluginError]
) -> BackendSpec:
    if wanted in broken:
        raise broken[wanted]
    if wanted not in known:
        raise UnknownPlugin(
            f"no backend is named {wanted!r}; there are: {', '.join(sorted(known)) or 'none'}."
        )
    found = probe(known[wanted])
    if not found.available:
        reason = found.reason or "it did not say why"
        raise BackendUnavailable(f"the backend {wanted} cannot run on this machine: {reason}")
    return known[wanted]


def _nothing(files: ModelFiles, reasons: Mapping[str, str]) -> str:
    lines = [f"no installed backend can serve {files.reference}."]
    lines += [f"  {name}: {reason}" for name, reason in sorted(reasons.items())]
    if not reasons:
        lines[0] += " None is installed."
    backend, extra = _FIRST_PARTY.get(files.format, ("", ""))
    if backend and backend not in reasons:
        lines.append(f'For such a model: pip install "tgi-core[{extra}]"')
    return "\n".join(lines)
