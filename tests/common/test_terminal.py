"""What others wrote reaches this machine's screen as text only: from a hostile server, a hostile site, an error."""

import io
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from privet.client import live as client_live
from privet.common import live as common_live
from privet.common.terminal import printable
from privet.server import live as server_live

EVIL = ["\x1b[2J", "\x1b]0;owned\x07", "\x9b2J", "\r", "\x08", "\u202e", "\u2066", "\ud800", "\x00", "\x7f", "\u2028"]


@given(st.text(st.characters(), max_size=50), st.integers(1, 60))
def test_nothing_but_print_and_line_breaks_gets_through(text: str, limit: int) -> None:
    shown = printable(text, limit)
    assert len(shown) <= limit
    assert shown.replace("\n", "").isprintable()
    assert not {unicodedata.category(char) for char in shown.replace("\n", "")} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    if len(text) <= limit:
        assert len(shown) == len(text)
        assert all(new in (old, "\ufffd") for old, new in zip(text, shown, strict=True))


def test_text_for_people_stays_as_it_is() -> None:
    text = "Pläne: ε ≤ 8 – 漢字 …\nline two 🙂"
    assert printable(text) == text
    assert printable(text + "\x1b") == text + "\ufffd"
    assert printable("x" * 20_001) == "x" * 19_999 + "…"


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Both views draw on a pretended terminal without colours."""
    out = io.StringIO()

    def console(**_: Any) -> Console:
        return Console(file=out, force_terminal=True, color_system=None, width=200, highlight=False)

    monkeypatch.setattr(common_live, "Console", console)
    return out


def _steers(screen: io.StringIO, evil: str) -> bool:
    """Whether `evil` got through together with its text: rich's own cursor movements stand elsewhere."""
    seen = screen.getvalue()
    assert "owned" in seen
    return f"{evil}owned" in seen


@pytest.mark.parametrize("evil", EVIL)
def test_a_hostile_server_cannot_steer_a_sites_terminal(screen: io.StringIO, evil: str) -> None:
    with client_live.watch(f"north{evil}owned", as_json=False) as listener:
        for kind in ("refused", "pending", "error", "link"):
            listener({"event": kind, "text": f"a plan {evil}owned"})
    assert not _steers(screen, evil)


@pytest.mark.parametrize("evil", EVIL)
def test_a_hostile_site_cannot_steer_a_servers_terminal(screen: io.StringIO, evil: str) -> None:
    name = f"south{evil}owned"
    with server_live.watch(f"privet server {evil}owned", as_json=False) as listener:
        listener({"event": "listening", "address": name, "sites": [name]})
        listener({"event": "offer", "site": name, "code": name})
        listener({"event": "warning", "text": name})
    assert not _steers(screen, evil)


@pytest.mark.parametrize("evil", EVIL)
def test_plain_lines_are_clean_too(evil: str) -> None:
    site, server = client_live.View("north"), server_live.View("title")
    lines = [
        site.feed({"event": "refused", "text": f"{evil}owned"}),
        site.feed({"event": "link", "text": f"{evil}owned"}),
        site.feed({"event": f"{evil}owned", "text": ""}),
        server.feed({"event": "offer", "site": f"{evil}owned", "code": "ok"}),
        server.feed({"event": "offer", "site": "north", "code": f"{evil}owned"}),
        server.feed({"event": "warning", "text": f"{evil}owned"}),
    ]
    assert all(line is not None and "owned" in line and line.isprintable() for line in lines)


@pytest.mark.parametrize("evil", EVIL)
def test_an_errors_text_cannot_steer_the_terminal(capsys: Any, monkeypatch: pytest.MonkeyPatch, evil: str) -> None:
    from privet.common import cli
    from privet.common.errors import ConfigError

    def fail(**_: Any) -> None:
        raise ConfigError(f"{evil}owned", where="invite.toml")

    monkeypatch.setattr(cli, "app", fail)
    monkeypatch.setattr(cli, "leave", lambda code: None)
    monkeypatch.setattr("privet.common.logs.set_up", lambda **_: None)  # it sets hooks of this whole process
    cli.main()
    seen = capsys.readouterr().err
    assert "owned" in seen
    assert seen.removesuffix("\n").isprintable()
