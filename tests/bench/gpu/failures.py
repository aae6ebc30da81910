"""A pytest plugin: tells a failure when it happens, for a run may be ended before its end."""

from __future__ import annotations

import pytest

_MOST = 4000


class Failures:
    def __init__(self, terminal: pytest.TerminalReporter) -> None:
        self.terminal = terminal

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.terminal.write_line(f"\n!! {report.nodeid}\n{report.longreprtext[-_MOST:]}")


@pytest.hookimpl(trylast=True)  # after the terminal's reporter is there
def pytest_configure(config: pytest.Config) -> None:
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if terminal is not None:  # a worker has none
        config.pluginmanager.register(Failures(terminal))
