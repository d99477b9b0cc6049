"""The server's audit log from a run's events, and its numbers for Prometheus."""

import socket
import threading
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from privet.common.audit_log import AuditLogError, read
from privet.common.config.federation import ServerSpec
from privet.common.config.site import Site
from privet.common.errors import TransportError
from privet.common.keys import generate_site_key, public_pem
from privet.server.audit import ServerAudit
from privet.server.exporter import ServerExporter
from tests.client.agent_bench import site_of
from tests.tiny_models import tiny_plan

ROUND: dict[str, Any] = {
    "event": "round", "round": 1, "cohort": ["clinic", "ward"], "answered": ["clinic"], "missing": ["ward"],
    "failed": {"lab": "unavailable"}, "aggregated": True, "public": {"accuracy": 0.5}, "sites": None,
    "evaluation": {"number": 1, "answered": ["clinic"], "missing": [], "failed": {"ward": "bad_request"},
                   "left_out": []},
    "seconds": 1.5, "bytes_up": 100, "bytes_down": 200,
}  # fmt: skip


def pem() -> bytes:
    return public_pem(generate_site_key()[0])


def kinds(state: Path) -> list[str]:
    return [line.kind for line in read(state / "audit.jsonl").lines]


def test_a_run_is_told_in_lines(base: Path, tmp_path: Path) -> None:
    plan = tiny_plan(base)
    audit = ServerAudit(tmp_path, plan)
    audit.started()
    audit.feed({"event": "started", "federation": "tiny", "plan": plan.digest, "rounds": 3})
    for code in ("pending", "pending", "no_answer", "ok", "ok"):  # asked again and again
        audit.feed({"event": "offer", "site": "clinic", "code": code, "epsilon": 7.5 if code == "ok" else None})
    audit.feed({"event": "round_started", "round": 1, "cohort": ["clinic", "ward"]})
    audit.feed(ROUND)
    audit.feed({"event": "warning", "text": "ward: /private/path the patient has a fever"})
    run = tmp_path / "tiny-20260101T000000Z"
    (run / "adapter").mkdir(parents=True)
    (run / "adapter" / "adapter_model.safetensors").write_bytes(b"weights")
    audit.feed({"event": "finished", "run": str(run), "rounds": 1})
    audit.stopped(None)
    wanted = ["begun", "started", "opened", "refused", "agreed", "round_started", "round_ended", "finished", "stopped"]
    assert kinds(tmp_path) == wanted
    lines = read(tmp_path / "audit.jsonl").lines
    assert lines[-2].fields["run"] == run.name
    assert len(lines[-2].fields["adapter_sha256"]) == 64
    assert lines[-3].fields["evaluation"]["failed"] == {"ward": "bad_request"}
    text = (tmp_path / "audit.jsonl").read_text()
    assert not [word for word in ("fever", "/private", str(tmp_path)) if word in text]


def test_keys_are_told_when_they_come_and_go_also_across_a_restart(base: Path, tmp_path: Path) -> None:
    plan, first, second = tiny_plan(base), pem(), pem()
    audit = ServerAudit(tmp_path, plan)
    audit.enrolled({first: "clinic"})
    audit.enrolled({first: "clinic", second: "ward"})
    audit = ServerAudit(tmp_path, plan)  # a restart
    audit.enrolled({first: "clinic", second: "ward"})
    assert kinds(tmp_path) == ["begun", "enrolled", "enrolled"]
    audit.enrolled({second: "clinic"})  # another key for a name
    assert kinds(tmp_path)[3:] == ["removed", "removed", "enrolled"]
    audit = ServerAudit(tmp_path, plan)
    audit.enrolled({})
    assert kinds(tmp_path)[6:] == ["removed"]


@pytest.mark.parametrize(
    ("error", "reason"), [(None, "finished"), (KeyboardInterrupt(), "signal"), (OSError(), "error")]
)
def test_the_last_line_says_how_it_ended(base: Path, tmp_path: Path, error: Any, reason: str) -> None:
    ServerAudit(tmp_path, tiny_plan(base)).stopped(error)
    assert read(tmp_path / "audit.jsonl").lines[-1].fields["reason"] == reason


def test_an_altered_log_lets_no_server_start(base: Path, tmp_path: Path) -> None:
    plan = tiny_plan(base)
    ServerAudit(tmp_path, plan).started()
    path = tmp_path / "audit.jsonl"
    path.write_bytes(path.read_bytes().replace(b"server", b"client"))
    with pytest.raises(AuditLogError, match="line 1 was altered"):
        ServerAudit(tmp_path, plan)


# Prometheus


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def page(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if not line.startswith("#")}


def test_the_page_shows_the_run_and_goes_with_it(tmp_path: Path) -> None:
    before, port = threading.active_count(), free_port()
    for _ in range(2):  # nothing of the first is left
        with ServerExporter(f"127.0.0.1:{port}") as exporter:
            exporter.watch(online=lambda: 2, refused=lambda: 5, checkpoints=tmp_path)
            exporter.enrolled(3)
            (tmp_path / "round-00001.safetensors").write_bytes(b"")
            exporter.feed({"event": "started", "rounds": 4})
            exporter.feed({"event": "round_started", "round": 1, "cohort": ["clinic", "ward"]})
            exporter.feed({"event": "offer", "site": "clinic", "code": "pending"})
            exporter.feed(ROUND)
            with pytest.raises(TransportError, match="another port"):
                ServerExporter(f"127.0.0.1:{port}")
            shown = page(port)
        assert shown["privet_rounds_total"] == shown["privet_rounds_completed_total"] == 1
        assert shown["privet_rounds_planned"] == 4
        assert shown["privet_round_seconds_sum"] == 1.5
        assert (shown["privet_sites_enrolled"], shown["privet_sites_online"], shown["privet_sites_ready"]) == (3, 2, 2)
        assert shown['privet_replies_total{code="ok"}'] == 2
        assert shown['privet_replies_total{code="no_answer"}'] == 1
        assert shown['privet_replies_total{code="bad_request"}'] == 1
        assert shown['privet_array_bytes_total{direction="in"}'] == 100
        assert shown["privet_refused_key_calls_total"] == 5
        assert 0 <= shown["privet_checkpoint_age_seconds"] < 3600
        assert shown["process_resident_memory_bytes"] > 0
        assert not [name for name in shown if "clinic" in name or "python" in name]
    assert threading.active_count() == before
    with socket.socket() as probe, pytest.raises(ConnectionRefusedError):
        probe.connect(("127.0.0.1", port))


@pytest.mark.parametrize(
    "address",
    ["0.0.0.0:9464", "localhost:9464", "10.0.0.1:9464", "127.0.0.1", "127.0.0.1:0", "[::]:9464", "::1:9464", ":9464",
     "127.0.0.1:99999", "example.org:9464", "[127.0.0.1]:9464", "127.0.0.1:٩"],
)  # fmt: skip
def test_only_this_machine_may_ask(address: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="this machine alone"):
        ServerSpec(metrics=address)
    with pytest.raises(ValueError, match="this machine alone"):
        site_of(tmp_path, metrics=address)


def test_both_forms_of_loopback_may_be_given(tmp_path: Path) -> None:
    for address in ("127.0.0.1:9464", "127.1.2.3:9464", "[::1]:9464"):
        assert ServerSpec(metrics=address).metrics == address
        assert site_of(tmp_path, metrics=address).metrics == address
    assert ServerSpec().metrics is None
    assert Site.model_fields["metrics"].default is None
