"""What the operator is told of refused keys, and that a stranger cannot flood log or memory."""

import time
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from privet.common.keys import fingerprint, public_pem
from privet.server.fleet import refusals as room
from privet.server.fleet.refusals import MAX_STRANGERS, Refusals, RefusedKey


def told_of(notes: list[tuple[bytes | None, str]], names: dict[bytes, str] | None = None) -> list[RefusedKey]:
    told: list[RefusedKey] = []
    refusals = Refusals(told.append, lambda key: (names or {}).get(key))
    refusals.start()
    for key, reason in notes:
        refusals.note(key, reason)
    refusals.close()
    return told


def test_a_key_is_told_once_with_its_fingerprint_and_name() -> None:
    key, stranger = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
    pem, other = public_pem(key), public_pem(stranger)
    assert told_of([(pem, "not enrolled"), (other, "not enrolled")] * 50, {pem: "clinic-a"}) == [
        RefusedKey(fingerprint(key), "clinic-a", "not enrolled"),
        RefusedKey(fingerprint(stranger), None, "not enrolled"),
    ]


def test_it_is_told_again_after_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(room, "time", SimpleNamespace(monotonic=lambda: now[0]))
    told: list[RefusedKey] = []
    refusals = Refusals(told.append, lambda _: "clinic-a")
    for later in (0.0, 59.0, 61.0, 62.0):
        now[0] = 1000.0 + later
        refusals.note(b"key", "not enrolled")
    monkeypatch.undo()
    refusals.start()
    refusals.close()
    assert len(told) == 2


def test_a_flood_of_strangers_is_bounded_and_hides_no_site() -> None:
    pem = public_pem(ec.generate_private_key(ec.SECP384R1()))
    told: list[RefusedKey] = []
    refusals = Refusals(told.append, {pem: "clinic-a"}.get)
    for number in range(20_000):
        refusals.note(b"-----BEGIN %d" % number + b"x" * 2000, "not enrolled")
    refusals.note(pem, "not enrolled")
    assert len(refusals._told) == MAX_STRANGERS + 1
    assert refusals._cases.qsize() == MAX_STRANGERS + 1
    refusals._window = time.monotonic()  # the next minute
    refusals.note(None, "no key")
    refusals.start()
    refusals.close()
    assert [one for one in told if one.name] == [
        RefusedKey(told[MAX_STRANGERS].fingerprint, "clinic-a", "not enrolled")
    ]
    assert told[-2:] == [
        RefusedKey(None, None, f"{20_000 - MAX_STRANGERS} more unknown keys within a minute"),
        RefusedKey(None, None, "no key"),
    ]


def test_who_does_not_hold_the_key_is_told_apart() -> None:
    key, thief = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
    pem = public_pem(key)
    for signer, reason in ((key, "not enrolled"), (thief, "invalid signature")):
        told: list[RefusedKey] = []
        refusals = Refusals(told.append, {pem: "clinic-a"}.get)
        refusals.note(pem, "not enrolled", (b"now", signer.sign(b"now", ec.ECDSA(SHA256()))))
        refusals.start()
        refusals.close()
        assert told == [RefusedKey(fingerprint(key), "clinic-a", reason)]


def test_other_curves_and_what_is_no_key() -> None:
    other = public_pem(ec.generate_private_key(ec.SECP256R1()))
    wrong, nothing = told_of([(other, "not enrolled"), (b"\xff\x1b[2J", "not enrolled")])
    assert wrong.reason == "not an EC P-384 key"
    assert wrong.fingerprint is not None
    assert nothing == RefusedKey(None, None, "not a public key")


def test_a_listener_that_fails_does_not_end_the_telling() -> None:
    told: list[RefusedKey] = []

    def tell(refused: RefusedKey) -> None:
        told.append(refused)
        raise OSError("the log's disk is full")

    refusals = Refusals(tell, lambda _: None)
    refusals.start()
    refusals.note(b"a", "not enrolled")
    refusals.note(b"b", "not enrolled")
    refusals.close()
    assert len(told) == 2
