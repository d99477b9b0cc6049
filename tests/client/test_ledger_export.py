"""What was sent can be taken out and looked at: the exact bytes, with the chain that they stand in."""

import hashlib
import json
from pathlib import Path

import pytest

from privet.client.ledger import Ledger, LedgerError, New
from privet.common.errors import InputError
from privet.common.privacy.events import EvaluateEvent
from tests.client.ledger_cases import DATA_ID, make_admission, make_plan, make_site

BODY = hashlib.sha256(b"request").hexdigest()
PLAN = make_plan()
METRICS = EvaluateEvent(noise_multiplier=20.0, release="accuracy", unit="unit")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger.open(tmp_path / f"{DATA_ID}.sqlite", agent=True)
    ledger.record_plan(PLAN, make_admission(PLAN, evaluation=METRICS, num_evaluations=1), make_site())
    for round, kind, reply in ((1, "train", b"update"), (1, "evaluate", b"counts"), (3, "train", b"\x00" * 5000)):
        reserved = ledger.reserve(PLAN.digest, round, kind, BODY)  # type: ignore[arg-type]
        assert isinstance(reserved, New)
        ledger.store(reserved.event_id, reply)
    ledger.reserve(PLAN.digest, 2, "train", BODY)  # never answered: nothing left
    return ledger


def test_every_reply_that_was_sent_is_written(ledger: Ledger, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    assert ledger.export(folder) == 3
    start = PLAN.digest[:16]
    replies = {f"{start}-train-1.safetensors": b"update", f"{start}-evaluate-1.safetensors": b"counts"}
    replies[f"{start}-train-3.safetensors"] = b"\x00" * 5000
    assert {path.name for path in folder.iterdir()} == {*replies, "manifest.json", "chain.jsonl"}
    lines = [json.loads(line) for line in (folder / "chain.jsonl").read_text().splitlines()]
    previous = b"\x00" * 32
    for line in lines:  # the chain can be followed with nothing but SHA-256
        assert line["previous"] == previous.hex()
        previous = hashlib.sha256(previous + line["body"].encode()).digest()
        assert line["hash"] == previous.hex()
    assert line["hash"] == ledger.head().hash
    hashes = {line["hash"]: json.loads(line["body"]) for line in lines}
    for entry in json.loads((folder / "manifest.json").read_text()):
        written = (folder / entry["file"]).read_bytes()
        assert written == replies.pop(entry["file"])
        assert hashlib.sha256(written).hexdigest() == entry["reply_sha256"] == hashes[entry["chain"]]["reply_sha256"]
        assert (entry["plan"], entry["request_sha256"]) == (PLAN.digest, BODY)
    assert replies == {}
    ledger.close()


def test_a_folder_with_something_in_it_is_left_alone(ledger: Ledger, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    assert ledger.export(folder) == 3  # empty
    before = {path.name for path in folder.iterdir()}
    with pytest.raises(InputError, match="not empty"):
        ledger.export(folder)
    assert {path.name for path in folder.iterdir()} == before
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        ledger.export(tmp_path / "file")
    ledger.close()


def test_a_file_that_was_not_written_whole_is_found(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(path: Path, content: bytes) -> None:
        path.write_bytes(content[:-1])

    monkeypatch.setattr("privet.client.ledger.check._write", short)
    with pytest.raises(LedgerError, match="not what was stored"):
        ledger.export(tmp_path / "out")
    ledger.close()
