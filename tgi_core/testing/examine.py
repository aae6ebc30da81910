"""`tgi conformance`: runs the kit on an installed backend and reports what it promises and keeps.

Without a model it writes a tiny Llama and compares with arithmetic of its own. What pytest shows
while it runs is pytest's.
"""

from __future__ import annotations

import argparse
import platform
import re
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from tgi_core import __version__
from tgi_core.builtin import hub_source, local_source
from tgi_core.config.kinds import PAIRS
from tgi_core.contract import BackendKind, DType, LoadRequest, ModelFiles, ModelFormat
from tgi_core.errors import BackendUnavailable, UsageError
from tgi_core.plugin.catalog import Installed, PluginKind, find
from tgi_core.plugin.choose import choose_backend
from tgi_core.plugin.manager import Plugins
from tgi_core.plugin.report import ConformanceReport, Outcome, report_path

if TYPE_CHECKING:
    from tgi_core.testing.recorder import Recorder

_TEST = """\
from tgi_core.testing.examined import ExaminedBackend


class TestBackend(ExaminedBackend):
    module = {module!r}
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `tgi conformance`."""
    parser.epilog = "Exit status: 0 if no promise is broken, 1 if one is."
    parser.add_argument("--backend", required=True, metavar="NAME", help="which to examine")
    parser.add_argument(
        "--model",
        help="a model on this machine or on the hub; default: a tiny Llama, whose logits are known",
    )
    parser.add_argument(
        "--backend-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an option of the backend's own; may be repeated",
    )
    parser.add_argument(
        "--tests",
        nargs="+",
        metavar="PATH",
        help="the backend's own tests that inherit the kit, to be run instead",
    )
    parser.add_argument(
        "--simulator", default="", metavar="WHAT", help="what stands in for the device"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the report as JSON")
    parser.add_argument(
        "--save", action="store_true", help="write it into the backend's package, to be shipped"
    )


def run(args: argparse.Namespace) -> int:
    """Prints the report, after what pytest says.

    Raises:
        SetupError: the backend cannot be examined, so nothing is known of it.
    """
    if find_spec("pytest") is None:
        raise UsageError('the kit needs pytest: pip install "tgi-core[testing]"')
    if args.tests and (args.model or args.backend_option):
        raise UsageError("--tests bring their own model: leave out --model and --backend-option.")
    entry = find(PluginKind.BACKEND, args.backend)
    report = _examine(entry, args)
    text = report.to_json()
    # before anything is printed, for who reads it may stop reading
    if args.output:
        args.output.write_text(text, encoding="utf-8")
    if args.save:
        report_path(entry).write_text(text, encoding="utf-8")
    print(as_text(report))
    if args.save:
        print(f"saved: {report_path(entry)}")
    return 1 if report.count(Outcome.BROKEN) else 0


def as_text(report: ConformanceReport) -> str:
    """The report for people: the level, then each promise with its evidence."""
    where = f"{report.simulator}, a simulator" if report.simulator else report.device
    counts = ", ".join(f"{report.count(one)} {one.value}" for one in Outcome if report.count(one))
    lines = [
        f"{report.backend} ({report.distribution} {report.version}): {report.level.value}",
        f"on {where}, {report.date}, model {report.model}, tgi-core {report.core}",
        ", ".join(report.runtime),
        counts,
        "",
    ]
    for promise in report.promises:
        name = f"{promise.group}: {promise.name.replace('_', ' ')}"
        why = f" ({promise.why})" if promise.why else ""
        lines.append(f"{promise.outcome.value:9} {name}{why}")
    return "\n".join(lines)


def _examine(entry: Installed, args: argparse.Namespace) -> ConformanceReport:
    spec = Plugins().load_backend(entry.name)
    if spec.kind is BackendKind.ENGINE and not args.tests:
        raise UsageError(
            f"{entry.name} is an engine, and what its tokens stand for only its author knows: give "
            "its own tests, which inherit EngineConformance, with --tests."
        )
    if args.tests:
        recorder = _run_tests(args.tests)
    else:
        with TemporaryDirectory(prefix="tgi-conformance-") as folder:
            recorder = _run_kit(entry, Path(folder), args.model, _options(args.backend_option))
    if not recorder.promises:
        raise BackendUnavailable(
            f"no promise of {entry.name} was looked at: see above what pytest says."
        )
    return ConformanceReport(
        backend=entry.name,
        distribution=entry.distribution,
        version=entry.version,
        contract=spec.contract,
        core=__version__,
        date=datetime.now(timezone.utc).date().isoformat(),
        device=recorder.device,
        simulator=args.simulator,
        model=recorder.model,
        runtime=tuple(_runtime(entry.distribution)),
        promises=recorder.promises,
    )


def _options(pairs: Sequence[str]) -> dict[str, str]:
    options: dict[str, str] = {}
    for pair in pairs:
        try:
            key, value = PAIRS.read(pair)
        except ValueError as error:
            raise UsageError(f"--backend-option {pair}: must be {error}.") from error
        options[key] = value
    return options


def _run_kit(
    entry: Installed, folder: Path, model: str | None, options: dict[str, str]
) -> Recorder:
    from tgi_core.testing.examined import Subject
    from tgi_core.testing.tiny_llama import TinyLlama

    reference = None
    if model is None:
        reference = TinyLlama()
        path = reference.write(folder / "tiny-llama")
        files = ModelFiles(reference="tiny-llama", path=path, format=ModelFormat.SAFETENSORS)
    else:
        plugins = Plugins(builtins=(hub_source, local_source))
        plugins.load_plugins()
        files = plugins.model_source(model)
    # says why, if the machine lacks what the backend needs
    choose_backend(files, entry.name, [Plugins().load_backend(entry.name)])
    request = LoadRequest(
        model=files,
        # what the kit's tolerances suit; a GGUF file has its types inside
        dtype=DType.FLOAT32 if files.format is ModelFormat.SAFETENSORS else None,
        max_rows=8,
        max_sequence_tokens=128,
        max_step_tokens=160,
        options=options,
    )
    (folder / "pytest.ini").write_text("[pytest]\n")
    test = folder / "test_backend.py"
    test.write_text(_TEST.format(module=entry.module))
    subject = Subject(backend=entry.name, request=request, reference=reference)
    return _run_tests(
        [str(test), "--rootdir", str(folder), "-c", str(folder / "pytest.ini")], subject
    )


def _run_tests(arguments: Sequence[str], *plugins: object) -> Recorder:
    import pytest

    from tgi_core.testing.recorder import Recorder

    recorder = Recorder()
    # all of them, whichever marks the author's settings leave out in everyday runs
    always = ["-q", "--tb=short", "-p", "no:cacheprovider", "-m", ""]
    pytest.main([*always, *arguments], [recorder, *plugins])
    return recorder


def _runtime(distribution: str) -> Iterator[str]:
    """Python, what the distribution needs, and its vendor's, with the versions that are here."""
    yield f"Python {platform.python_version()}"
    for requirement in requires(distribution) or ():
        name, _, condition = requirement.partition(";")
        name = re.split(r"[^\w.-]", name.strip(), maxsplit=1)[0]
        if ("extra" not in condition or "vendor" in condition) and name != "tgi-core":
            try:
                yield f"{name} {version(name)}"
            except PackageNotFoundError:
                continue
