"""Compressed updates at the server: decoded strictly, one by one; what they cost is told."""

from typing import Any

import numpy as np
import pytest
from flwr.app import Message

from privet.common.compression import Coded, coded_bytes, coding_error, encode
from privet.common.errors import Code
from privet.common.messages import Reply, ReplyBody, Request, to_record
from privet.common.privacy.noise import SeededNoise
from tests.server.scripted import SPEC, Site, plan, reply_to, scene, update_of

KINDS: tuple[Any, ...] = ("fp16", "int8")


def _coded(site: Site, request: Request, kind: Any) -> Coded:
    body: Any = request.body
    return encode(kind, update_of(site.name, body.round), SeededNoise(body.round, site.name))


def _send(message: Message, request: Request, coded: Coded | None, arrays: Any = None) -> list[Message]:
    body: Any = request.body
    ok = ReplyBody(code=Code.OK, plan_digest=body.plan_digest, round=body.round)
    return [reply_to(message, to_record(Reply(ok, arrays or {}, coded)))]


def _sound(kind: Any) -> Any:
    return lambda site, message, request: _send(message, request, _coded(site, request, kind))


@pytest.mark.parametrize("kind", KINDS)
def test_a_round_of_compressed_updates(monkeypatch: pytest.MonkeyPatch, kind: Any) -> None:
    sites = [Site(name, train=_sound(kind)) for name in ("north", "south")]
    ran = scene(monkeypatch, sites, plan(training={"compression": kind})).run()
    plain = scene(monkeypatch, [Site("north"), Site("south")]).run()
    for row, uncompressed in zip(ran.rounds(), plain.rounds(), strict=True):
        assert row["aggregated"]
        assert row["bytes_up"] == 2 * coded_bytes(kind, SPEC.size) < uncompressed["bytes_up"] == 2 * 4 * SPEC.size
        assert row["compression"]["kind"] == kind
        errors = []
        for name in ("north", "south"):
            update = update_of(name, row["round"])
            coded = encode(kind, update, SeededNoise(row["round"], name))
            errors.append(coding_error(coded, np.concatenate([update[n].ravel() for n in sorted(update)])))
        assert max(errors) < 2 * row["compression"]["error_bound"] < 0.05
        assert "compression" not in uncompressed
    for name, array in plain.strategy.state.arrays.items():
        assert np.abs(array - ran.strategy.state.arrays[name]).max() < 0.1
        assert not np.array_equal(array, ran.strategy.state.arrays[name])


def _hostile(kind: Any) -> dict[str, Any]:
    size = coded_bytes(kind, SPEC.size)
    shapes = tuple((entry.name, entry.shape) for entry in SPEC.entries)

    def scaled(value: float) -> Any:
        def answer(site: Site, message: Message, request: Request) -> list[Message]:
            coded = _coded(site, request, kind)
            return _send(message, request, Coded(kind, shapes, np.float32(value).tobytes() + coded.data[4:]))

        return answer

    def of(shapes: Any, data: bytes, other: Any = kind) -> Any:
        return lambda _site, message, request: _send(message, request, Coded(other, shapes, data))

    larger = (*shapes[:-1], (shapes[-1][0], (4096, 4096)))
    other: Any = "int8" if kind == "fp16" else "fp16"
    return {
        "nan scale": scaled(np.nan),
        "infinite scale": scaled(np.inf),
        "large scale": scaled(1e6),
        "negative scale": scaled(-1.0),
        "short": of(shapes, bytes(size - 1)),
        "long": of(shapes, bytes(size + 1)),
        "larger arrays": of(larger, bytes(coded_bytes(kind, SPEC.size - 8 + 4096**2))),
        "other names": of(tuple((f"x{n}", s) for n, s in shapes), bytes(size)),
        "other way": of(shapes, bytes(coded_bytes(other, SPEC.size)), other),
        "plain": lambda site, message, request: _send(message, request, None, update_of(site.name, request.body.round)),
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", sorted(_hostile("int8")))
def test_a_bad_update_is_left_out_and_the_round_goes_on(monkeypatch: pytest.MonkeyPatch, kind: Any, fault: str) -> None:
    names = ("east", "north", "south")
    sites = [Site(name, train=_sound(kind)) for name in names]
    sites[0].train = _hostile(kind)[fault]
    ran = scene(monkeypatch, sites, plan(training={"compression": kind})).run()
    alone = scene(
        monkeypatch, [Site(name, train=_sound(kind)) for name in names[1:]], plan(training={"compression": kind})
    ).run()
    for row in ran.rounds():
        assert row["answered"] == ["north", "south"]
        assert row["failed"] in ({"east": "unavailable"}, {"east": "bad_request"})
    for name, array in alone.strategy.state.arrays.items():
        assert array.tobytes() == ran.strategy.state.arrays[name].tobytes()
    assert len(ran.rounds()) == 2
