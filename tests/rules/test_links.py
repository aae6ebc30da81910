"""Pages lead somewhere: to files that are there, and to tests that have the names they name."""

import re
from pathlib import Path

import pytest

from tests.rules.test_parity import known_tests
from tgi_core import errors

ROOT = Path(__file__).parents[2]
PAGES = [
    page
    for folder in ("", "docs", "docs/decisions", "docs/measurements", "docs/reference", "docker")
    for page in sorted((ROOT / folder).glob("*.md"))
] + [*ROOT.glob("backends/**/README.md"), *ROOT.glob("plugins/**/README.md")]
LINK = re.compile(r"\[([^\]]+)\]\(([^)#\s]+)(?:#[\w-]*)?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_to_something(page: Path) -> None:
    for words, target in LINK.findall(page.read_text()):
        if "://" in target:
            continue
        file = (page.parent / target).resolve()
        assert file.exists(), target
        if words.startswith("test_") and not words.endswith(".py"):
            assert words in known_tests(str(file.relative_to(ROOT))), words


def test_every_exit_status_is_on_its_page() -> None:
    told = re.findall(r"^\| ([\d, ]+) \|", (ROOT / "docs/exit-status.md").read_text(), re.MULTILINE)
    listed = {int(status) for row in told for status in row.split(", ")}
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    assert listed >= {kind.exit_code for kind in kinds if issubclass(kind, errors.SetupError)}


def test_every_attack_has_a_test() -> None:
    told, _, _ = (ROOT / "docs/security.md").read_text().partition("## Keys")
    rows = [line for line in told.splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 32
    assert all(re.search(r"\| \[test_\w+\]\([^)]+\)", row) for row in rows)
