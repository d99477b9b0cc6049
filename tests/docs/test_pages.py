"""All pages: every link leads somewhere, the index names every page, every command exists, and cheap ones are run."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from privet.common.cli import app
from tests.deploy.test_commands import refusal
from tests.docs.pages import ROOT

PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*/README.md")])
_CHEAP = re.compile(r"privet (init (federation|invite) |docs (text|reference))")


def _commands(page: Path) -> list[str]:
    """Commands of privet in blocks without a language or of a shell, continued lines joined, comments cut off."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```(?:sh)?(?: terminal)?\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in re.sub(r"\\\n\s*", " ", block).splitlines()]
    parts = [part.strip() for line in lines for part in re.split(r"\s&&\s|; do |; done", line.partition(" #")[0])]
    return [re.sub(r"\s*(>.*|&)$", "", part) for part in parts if part.startswith("privet ")]


def _anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_every_link_leads_somewhere() -> None:
    dead = []
    for page in PAGES:
        text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            name, _, anchor = target.partition("#")
            place = (page.parent / name) if name else page
            if "://" in target:
                continue
            if not place.exists() or (anchor and anchor not in _anchors(place)):
                dead.append(f"{page.relative_to(ROOT)}: {target}")
    assert not dead


def test_the_index_names_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for page in ROOT.glob("docs/*.md"):
        assert page.name == "README.md" or f"]({page.name})" in index, page.name
    for page in ROOT.glob("examples/*/README.md"):
        assert f"](../{page.relative_to(ROOT)})" in index, page


def test_every_command_of_every_page_exists() -> None:
    found = {str(page.relative_to(ROOT)): _commands(page) for page in PAGES}
    assert sum(map(len, found.values())) > 80
    wrong = {
        (name, line): why for name, lines in found.items() for line in lines if (why := refusal(line.replace("…", "")))
    }
    assert wrong == {}


_LOOSE = [page for page in PAGES if any(map(_CHEAP.match, _commands(page))) and "```sh" not in page.read_text()]


@pytest.mark.parametrize("page", _LOOSE, ids=lambda page: str(page.relative_to(ROOT)))
def test_cheap_commands_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of pages that no test follows whole: starter files and generated text, as written but for the labels' list."""
    monkeypatch.chdir(tmp_path)
    for line in _commands(page):
        if _CHEAP.match(line):
            done = CliRunner().invoke(app, shlex.split(line.replace("$LABELS", "some,other"))[1:])
            assert done.exit_code == 0, (line, done.output, done.exception)
    assert any(tmp_path.iterdir())
