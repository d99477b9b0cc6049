"""A site's numbers on its own loopback."""

from privet.client.exporter import SiteExporter
from privet.common.audit_log.entries import Refused, Released, Replayed
from privet.common.errors import Code
from tests.server.test_server_audit import free_port, page

FIELDS = {"federation": "tiny", "plan": "ab" * 32, "round": 1, "event": 1, "reply_sha256": "c" * 64, "num_bytes": 4}


def test_the_page_shows_link_budget_rounds_and_refusals() -> None:
    port = free_port()
    told: list[object] = []
    with SiteExporter(f"127.0.0.1:{port}") as exporter:
        listener = exporter.beside(told.append)
        listener({"event": "link", "federation": "tiny", "state": "online", "text": ""})
        listener({"event": "budget", "epsilon": 8.0, "spent_epsilon": 1.5, "reserved_epsilon": 6, "left_epsilon": 2})
        listener({"event": "training", "federation": "tiny", "text": "round 1 of 3"})
        listener({"event": "trained", "federation": "tiny", "text": ""})
        exporter.note(Released.model_validate(FIELDS | {"what": "update"}))
        exporter.note(Replayed.model_validate(FIELDS | {"what": "update"}))
        exporter.note(Released.model_validate(FIELDS | {"what": "statement", "event": 0}))
        exporter.note(Refused(request="train", code=Code.ROUND_LOST, federation="tiny"))
        shown = page(port)
        listener({"event": "link", "federation": "tiny", "state": "retrying", "text": ""})
        assert page(port)['privet_link_online{federation="tiny"}'] == 0
    assert len(told) == 5
    assert shown['privet_link_online{federation="tiny"}'] == 1
    assert {name: shown[f'privet_epsilon{{part="{name}"}}'] for name in ("whole", "spent", "reserved", "left")} == {
        "whole": 8, "spent": 1.5, "reserved": 6, "left": 2
    }  # fmt: skip
    assert shown['privet_local_rounds_total{federation="tiny"}'] == 1
    assert shown['privet_replayed_total{federation="tiny"}'] == 1
    assert shown['privet_refusals_total{code="round_lost",federation="tiny"}'] == 1
    assert shown['privet_local_round_seconds{federation="tiny"}'] >= 0
