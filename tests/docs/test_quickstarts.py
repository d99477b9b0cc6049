"""The quickstarts, as a reader would type them: in empty folders, with real processes over the loopback."""

import json
import re
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.docs.edits import edited
from tests.docs.pages import ROOT, Reader, blocks, commands, follow

DOCS = ROOT / "docs"
PAGES = ("quickstart-server.md", "quickstart-site.md", "quickstart-research.md")


def test_a_page_stops_at_the_first_command_that_fails(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```sh\nfalse  # exit 1\nfor A in 1 2; do\n  echo told-$A\ndone\n```\n```\nfalse\n```\n")
    assert "told-1\ntold-2" in follow(page, tmp_path / "sound", 20)
    page.write_text("```sh\ntrue  # it ends with exit 3\ntouch after\n```\n")
    with pytest.raises(AssertionError, match="ended with 0"):
        follow(page, tmp_path / "faulty", 20)
    assert not (tmp_path / "faulty" / "after").exists()
    page.write_text("```sh terminal\nsleep 0.1; exit 5\n```\n")
    with pytest.raises(AssertionError, match="a terminal"):
        follow(page, tmp_path / "terminal", 20)


def test_keys_are_set_in_their_own_table() -> None:
    text = "a = 1\n[x]\na = 2  # two\n[y]\nb = 3\n"
    assert edited(text, "[x]\na = 5\n[z.q]\nc = 1") == "a = 1\n[x]\na = 5\n[y]\nb = 3\n\n[z.q]\nc = 1\n"


def test_every_command_of_a_quickstart_is_run() -> None:
    """A block without a mark would be shown and never tried."""
    for name in PAGES:
        found = list(blocks(DOCS / name))
        assert sum(len(list(commands(b.text))) for b in found if b.kind == "sh") >= 6, name
        assert {block.kind for block in found} <= {"sh", "toml", "python", "direction"}, name


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_researchers_page(tmp_path: Path) -> None:
    words = follow(DOCS / "quickstart-research.md", tmp_path, 3300)
    assert (tmp_path / "compared.html").stat().st_size > 10_000
    assert re.search(r"^0\.\d{3}$", words, re.MULTILINE), "the accuracy that the script prints"
    runs = list((tmp_path / "trial" / "runs").glob("trial-2*/metrics.jsonl"))
    assert len(runs) == 2


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_engineers_page_beside_two_that_follow_the_operators(tmp_path: Path) -> None:
    """One file to the sites and one back, as the pages say; a server, two clients, four rounds."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = {"9092": str(probe.getsockname()[1])}
    post = tmp_path / "post"
    with ExitStack() as stack:
        readers = {}
        for name, page in (("server", "server"), ("north", "site"), ("south", "site")):
            exchange = port | ({"north": name} if page == "site" else {})
            readers[name] = Reader(DOCS / f"quickstart-{page}.md", tmp_path / name, post, exchange)
            stack.callback(readers[name].close)
        words = {name: reader.wait(3300) for name, reader in readers.items()}
    home = tmp_path / "server"
    (metrics,) = (home / "hospitals" / "runs").glob("*/metrics.jsonl")
    rounds = [json.loads(line) for line in metrics.read_text().splitlines() if '"round"' in line]
    rounds = [event for event in rounds if event["event"] == "round"]
    assert [event["answered"] for event in rounds] == [["north", "south"]] * 4
    assert rounds[-1]["public"]["accuracy"] > 0.4
    assert len(re.findall(r"^[a-z]+\t0\.\d+$", words["server"], re.MULTILINE)) == 2
    for name in ("north", "south"):
        assert "waits" in words[name] or "pending" in words[name]
        assert len(list((tmp_path / name / "sent").glob("**/*"))) > 4
        assert (tmp_path / name / "dpia.html").stat().st_size > 10_000
