"""Thousands of malformed messages at both ends: none gets past, none raises another error, none takes much memory."""

import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz.mutation import Corpus, mutants
from tests.fuzz.oracle import PEAK_BYTES, REPLY, REQUEST, Side, Tally, objects_of, try_objects, try_record
from tests.fuzz.strategies import malformed

SIDES = pytest.mark.parametrize("side", [REPLY, REQUEST], ids=lambda side: side.name)
FEW, MANY = 200, 10_000


def drawn_records(side: Side, count: int) -> Tally:
    """Malformed records from the strategies, by a fixed seed."""
    tally = Tally()

    @seed(20)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(malformed(side))
    def check(record: Any) -> None:
        try_record(side, record, tally)

    check()
    return tally


def mutated_objects(side: Side, count: int) -> Tally:
    """Sound messages mutated as bytes, by a fixed seed."""
    tally = Tally()
    for root, contents in mutants(side, 20, count):
        try_objects(side, root, contents, tally)
    return tally


@SIDES
def test_the_sound_message_passes(side: Side) -> None:
    """Else nothing below would mean anything."""
    tally = Tally()
    try_record(side, side.sound(), tally)
    try_objects(side, *objects_of(side.sound()), tally)
    corpus = Corpus(side)
    try_objects(side, corpus.root, corpus.objects(corpus.blob()), tally)
    assert (tally.sound, tally.refused) == (3, 0)


@SIDES
def test_malformed_records_are_refused(side: Side) -> None:
    tally = drawn_records(side, FEW)
    assert tally.seen >= FEW
    assert tally.sound <= 0.05 * tally.seen  # harmless changes, such as a statement left out


@SIDES
def test_mutated_objects_are_refused(side: Side) -> None:
    tally = mutated_objects(side, FEW)
    assert tally.seen == FEW
    assert tally.sound <= 0.25 * FEW  # flipped bits of values that stay finite, or of metadata that is not used


@pytest.mark.slow
@SIDES
def test_ten_thousand_malformed_records_are_refused(side: Side) -> None:
    tally = drawn_records(side, MANY)
    print(f"{side.name}: {tally}")
    assert tally.refused >= 0.95 * MANY
    assert tally.peak < PEAK_BYTES


@pytest.mark.slow
@SIDES
def test_ten_thousand_mutated_messages_are_refused(side: Side) -> None:
    tally = mutated_objects(side, MANY)
    print(f"{side.name}: {tally}")
    assert tally.refused >= 0.75 * MANY
    assert tally.peak < PEAK_BYTES


@pytest.mark.slow
@pytest.mark.skipif(find_spec("atheris") is None, reason="needs the extra `fuzz`")
@SIDES
def test_guided_mutation_finds_nothing(side: Side) -> None:
    command = [sys.executable, "-m", "tests.fuzz", side.name, "--guided", "--count", str(MANY), "--seed", "20"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@SIDES
def test_the_oracle_sees_what_gets_past(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the check of the arrays gone, the same messages are caught here."""
    monkeypatch.setattr("tests.fuzz.oracle._passes", lambda _arrays, _bound: True)

    def run() -> None:
        for root, contents in mutants(side, 20, MANY):
            try_objects(side, root, contents, Tally(traced=False))

    with pytest.raises(AssertionError, match="got past"):
        run()
