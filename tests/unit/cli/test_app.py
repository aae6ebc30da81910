import errno
import os
import subprocess
import sys

import pytest

from tgi_core import __version__
from tgi_core.cli import plugins
from tgi_core.cli.app import main

COMMANDS = ("serve", "bench", "plugins", "backends", "new")


def run_apart(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "tgi_core", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        **options,
    )


def test_help_names_every_command():
    shown = run_apart("--help")
    assert shown.returncode == 0
    for command in COMMANDS:
        assert f"  {command} " in shown.stdout


def test_version_is_cores_own(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--version"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out == f"tgi {__version__}\n"


def test_no_command_is_a_usage_error(capsys):
    with pytest.raises(SystemExit) as exit_:
        main([])
    assert exit_.value.code == 2
    assert "COMMAND" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["plugins"], ["plugins", "-h"]])
def test_quick_commands_import_nothing_heavy(arguments):
    code = (
        "import sys\n"
        "from tgi_core.cli.app import main\n"
        "try:\n"
        f"    main({arguments!r})\n"
        "except SystemExit:\n"
        "    pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in ran.stderr.split()}
    assert not loaded & {"numpy", "starlette", "uvicorn", "torch", "httptools", "asyncio"}


def test_a_command_imports_only_its_own_module():
    code = (
        "import sys\n"
        "from tgi_core.cli.app import main\n"
        "main(['plugins'])\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name for name in ran.stderr.split() if name.startswith("tgi_core.cli.")}
    assert loaded == {"tgi_core.cli.app", "tgi_core.cli.plugins"}


def test_a_setup_error_is_one_paragraph_and_its_exit_status(capsys):
    assert main(["new", "backend", "No Name"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("tgi: error: 'No Name'")
    assert "Traceback" not in captured.err


def test_an_interrupt_exits_with_130(monkeypatch):
    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(plugins, "run", interrupted)
    assert main(["plugins"]) == 130


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
        (OSError(errno.ENFILE, "Too many open files in system"), "fs.file-max"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "ulimit -u"),
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (MemoryError(), "no more memory"),
    ],
)
def test_a_system_that_has_no_more_to_give_is_a_line_and_a_status_for_trying_again(
    monkeypatch, capsys, error, words
):
    def starved(args):
        raise error

    monkeypatch.setattr(plugins, "run", starved)
    assert main(["plugins"]) == 75
    told = capsys.readouterr().err
    assert told.startswith("tgi: error: ") and words in told


def test_other_faults_are_not_taken_for_that(monkeypatch):
    def broken(args):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(plugins, "run", broken)
    with pytest.raises(OSError, match="Input/output"):
        main(["plugins"])


@pytest.mark.parametrize("argument", ["plugins", "--help"])
def test_a_reader_that_goes_away_is_no_traceback(argument):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as output:
        ran = subprocess.run(
            [sys.executable, "-E", "-m", "tgi_core", argument],
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert ran.returncode == 141
    assert ran.stderr == ""
