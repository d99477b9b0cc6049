"""Two ledgers of one data set on one host are told; what lies beside foreign ledgers never stops anyone."""

import json
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privet.client.ledger import LedgerError
from privet.client.twins import SKETCH, _host_key, _overlap, _sketch, lineage_path, note, twins, warnings

TEXTS = [f"note {number} of a ward" for number in range(1000)]


@pytest.fixture
def ledgers(tmp_path: Path) -> list[Path]:
    return [tmp_path / "ledgers" / f"{name * 32}.sqlite" for name in "abc"]


def test_two_site_files_for_one_data_set(ledgers: list[Path], tmp_path: Path) -> None:
    first, second, third = ledgers
    source = tmp_path / "notes.csv"
    assert twins(first, source, TEXTS) == []
    note(first, source, TEXTS)
    assert twins(first, source, TEXTS) == []  # not its own twin
    (found,) = twins(second, source, TEXTS)
    assert (found.ledger, found.same_source, found.share) == (first, True, 1.0)
    (copied,) = twins(second, tmp_path / "copy.csv", [f" {text} " for text in TEXTS])
    assert (copied.same_source, copied.share) == (False, 1.0)
    (line,) = warnings(second, tmp_path / "copy.csv", TEXTS[:800])
    assert str(first) in line
    assert "shares 100% of its texts" in line
    (emptied,) = twins(second, tmp_path / "." / "notes.csv", [])
    assert (emptied.same_source, emptied.share) == (True, 0.0)
    note(second, tmp_path / "other.csv", [text.upper() for text in TEXTS])
    assert [twin.ledger for twin in twins(third, source, TEXTS)] == [first]


@settings(max_examples=15, deadline=None)
@given(shared=st.integers(0, 2000), more=st.integers(0, 2000), other=st.integers(0, 2000))
def test_the_overlap_is_estimated(shared: int, more: int, other: int) -> None:
    both = [f"s{number}" for number in range(shared)]
    sketches = [
        _sketch(b"k" * 32, Path("x"), both + [f"{name}{number}" for number in range(count)])["contents"]
        for name, count in (("m", more), ("o", other))
    ]
    estimate, sizes = _overlap(*sketches), (shared + more, shared + other)
    truth = shared / min(sizes) if min(sizes) else 0.0
    assert max(map(len, sketches)) <= SKETCH
    sample = min(sizes) * min(1.0, SKETCH / max(*sizes, 1))
    assert abs(estimate - truth) <= 6 * (0.25 / max(sample, 1)) ** 0.5 or sample < 10


def test_files_tell_nothing_without_the_hosts_key(ledgers: list[Path], tmp_path: Path) -> None:
    source = tmp_path / "notes.csv"
    note(ledgers[0], source, TEXTS)
    for path in ledgers[0].parent.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert {path.name for path in ledgers[0].parent.iterdir()} == {"host.key", lineage_path(ledgers[0]).name}
    held = json.loads(lineage_path(ledgers[0]).read_text())
    other_host = _sketch(_host_key(tmp_path), source, TEXTS)
    assert not set(held["contents"]) & set(other_host["contents"])
    assert held["source"] != other_host["source"]


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"[]", b"\xff", b'{"source": 1, "contents": [2]}', b'{"source": "a"}', b"[" * 100_000, b"null"],
)
def test_damaged_foreign_files_are_passed_over(ledgers: list[Path], tmp_path: Path, damage: bytes) -> None:
    note(ledgers[0], tmp_path / "notes.csv", TEXTS)
    lineage_path(ledgers[2]).write_bytes(damage)
    lineage_path(ledgers[2].with_name("folder.sqlite")).mkdir()
    (found,) = twins(ledgers[1], tmp_path / "notes.csv", TEXTS)
    assert found.ledger == ledgers[0]


def test_a_damaged_key_is_told(ledgers: list[Path], tmp_path: Path) -> None:
    note(ledgers[0], tmp_path / "notes.csv", TEXTS)
    (ledgers[0].parent / "host.key").write_bytes(b"short")
    with pytest.raises(LedgerError, match="key is damaged"):
        note(ledgers[0], tmp_path / "notes.csv", TEXTS)
