import io
import json

from tgi_core.observe.logging import configure_logging
from tgi_core.observe.progress import ProgressDisplay


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_elsewhere_than_on_a_terminal_it_is_a_line_at_the_beginning_and_one_at_the_end():
    stream = io.StringIO()
    display = ProgressDisplay(stream)
    for done in range(1, 101):
        display.show("loading weights", done, 100, "tensors")
    first, last = stream.getvalue().splitlines()
    assert first == "loading weights: 1 of 100 tensors"
    assert last.startswith("loading weights: 100 of 100 tensors in 0.")


def test_on_a_terminal_a_bar_redraws_itself():
    stream = Terminal()
    display = ProgressDisplay(stream)
    display.show("downloading", 2**20, 4 * 2**20, "bytes")
    display.show("downloading", 4 * 2**20, 4 * 2**20, "bytes")
    _, quarter, whole = stream.getvalue().split("\r\033[K")
    assert quarter == "[" + "=" * 8 + " " * 22 + "] downloading: 1 of 4 MiB"
    assert whole.startswith("[" + "=" * 30 + "] ") and whole.endswith(" s\n")


def test_with_a_log_it_is_lines_of_the_log(log):
    configure_logging("INFO")
    ProgressDisplay().show("warming up", 1, 1, "shapes")
    written = log()
    assert " INFO tgi_core.observe.progress: " in written
    assert "warming up: 1 of 1 shapes in 0.0 s" in written


def test_in_json_it_has_fields(log):
    configure_logging("INFO", json_lines=True)
    ProgressDisplay().show("loading weights", 3, 10, "tensors")
    line = json.loads(log())
    assert line["message"] == "loading weights: 3 of 10 tensors"
    assert (line["phase"], line["done"], line["total"], line["unit"]) == (
        "loading weights",
        3,
        10,
        "tensors",
    )
