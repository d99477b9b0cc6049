"""What the server keeps of its sites' ledgers: the newest head, durably, and never that of a site that refuses."""

import json
from pathlib import Path

import pytest

from privet.common.errors import Code, RunError
from privet.common.messages import Reply, ReplyBody
from privet.server.heads import Heads
from privet.server.roster import Roster
from tests.tiny_models import tiny_base, tiny_plan

NEW, OLD = "N" * 60, "O" * 60


def test_heads_outlive_the_server(tmp_path: Path) -> None:
    path = tmp_path / "heads.json"
    heads = Heads(path)
    assert heads.get("north") is None
    heads.note("north", OLD)
    heads.note("south", OLD)
    heads.note("north", NEW)
    heads.note("north", None)
    assert Heads(path).get("north") == NEW
    assert Heads(path).get("south") == OLD
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["heads.json"]


@pytest.mark.parametrize(
    "text", ["", "[]", '{"north": 3}', '{"north": "<script>"}', "{", '{"north": "' + "N" * 500 + '"}']
)
def test_a_damaged_file_stops_the_server(tmp_path: Path, text: str) -> None:
    (tmp_path / "heads.json").write_text(text)
    with pytest.raises(RunError, match=r"heads\.json"):
        Heads(tmp_path / "heads.json")


def test_a_head_that_cannot_be_kept_is_told(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="kept"):
        Heads(tmp_path / "gone" / "heads.json").note("north", NEW)


def test_only_a_site_that_agrees_replaces_its_head(tmp_path: Path) -> None:
    plan, heads = tiny_plan(tiny_base(tmp_path / "base")), Heads(tmp_path / "heads.json")
    roster = Roster(plan, {}, str, lambda _event: None, heads)

    def heard(code: Code, head: str) -> None:
        roster.heard("north", Reply(ReplyBody(code=code, plan_digest=plan.digest, head=head)))

    heard(Code.OK, NEW)
    for code in set(Code) - {Code.OK}:
        heard(code, OLD)
    roster.heard("north", None)
    assert json.loads((tmp_path / "heads.json").read_text()) == {"north": NEW}
