"""`tgi plan MODEL`: what memory a model will take, before any weight is read.

Takes what `tgi serve` takes. Knows no backend: each plans for itself.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from tgi_core.builtin import hub_heads, hub_source, local_source
from tgi_core.cli.load_request import load_request
from tgi_core.cli.outlook import look_at
from tgi_core.cli.plan_report import as_json, as_table
from tgi_core.cli.serve import add_settings, chosen_by
from tgi_core.config.kinds import SIZE
from tgi_core.config.settings import OPTIONS
from tgi_core.config.sources import build
from tgi_core.contract import BackendSpec, ModelFiles
from tgi_core.errors import BackendUnavailable, DoesNotFit, UsageError
from tgi_core.observe.logging import configure_logging
from tgi_core.plugin.choose import choose_backend, refuse_shards
from tgi_core.plugin.manager import Plugins


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `tgi plan`: those of `tgi serve`, and two more."""
    parser.epilog = "Exit status: 0 if the model fits, 78 if it does not."
    parser.add_argument(
        "--memory",
        metavar=SIZE.metavar,
        help="plan for a machine, or with --num-shard for a device, with so much, such as 24GiB",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    add_settings(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the plan.

    Raises:
        SetupError: the model cannot be had, or not be served by any size of machine.
    """
    settings = build(OPTIONS, chosen_by(args))
    configure_logging("WARNING")
    if not settings.model.reference:
        raise UsageError("say which model to plan: tgi plan MODEL.")
    memory = None if args.memory is None else _size(args.memory)
    plugins = Plugins(
        builtins=(hub_source, hub_heads, local_source),
        disabled=frozenset(settings.plugins.disabled),
    )
    if settings.plugins.installed:
        plugins.load_plugins()
    with TemporaryDirectory(prefix="tgi-plan-") as folder:
        files = plugins.model_heads(settings.model.reference, settings.model.revision, Path(folder))
        spec, note = _planning(plugins, files, settings.model.backend)
        refuse_shards(spec, settings.model.num_shards)
        assert spec.plan is not None
        outlook = look_at(spec.plan, load_request(settings, files), memory)
    print(as_json(outlook, spec.name, note) if args.json else as_table(outlook, spec.name, note))
    return 0 if not outlook.plan.missing_bytes else DoesNotFit.exit_code


def _size(text: str) -> int:
    try:
        size: int = SIZE.read(text)
    except ValueError as error:
        raise UsageError(f"--memory is {text!r}; it must be {error}.") from error
    return size


def _planning(
    plugins: Plugins, files: ModelFiles, wanted: str | None
) -> tuple[BackendSpec, str | None]:
    """The backend that plans: of those that do, the one that would serve.

    Returns:
        With it what to know if another one would serve.
    """
    if wanted is not None:
        spec = plugins.backend(files, wanted)
        if spec.plan is None:
            raise UsageError(f"the backend {wanted} does not plan.")
        return spec, None
    serving = plugins.backend(files)
    if serving.plan is not None:
        return serving, None
    backends = plugins.load_all_backends()
    specs = [spec for spec in backends.specs.values() if spec.plan is not None]
    if not specs:
        raise BackendUnavailable(
            f"{serving.name} would serve the model and does not plan, and no other backend does."
        )
    planning = choose_backend(files, None, specs, backends.failures)
    return planning, (
        f"{serving.name} would serve this model and does not plan; this is for "
        f"--backend {planning.name}"
    )
