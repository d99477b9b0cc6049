"""The choice of engine and precision: a site's is kept or refused, a simulation's is told; what is asked for runs."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from privet.client import app, engines
from privet.client.describe import describe
from privet.client.engines import asked_in_words, choose, found_in_words, not_covered, require
from privet.client.gradients import OpacusEngine
from privet.client.linear import LinearEngine
from privet.client.preflight import machine
from privet.client.preflight.results import Status
from privet.client.rounded import RoundedOpacusEngine
from privet.client.training import RoundTrainer
from privet.common import precision
from privet.common.config import Plan, Site
from privet.common.errors import Code, ConfigError, PrivetError
from privet.common.frozen import FrozenLinear
from tests.client.agent_bench import Bench, site_of
from tests.client.ledger_cases import make_admission
from tests.tiny_models import tiny_plan

WHY = "the base is of type 'roberta', not 'bert'"


@pytest.fixture(scope="module")
def lora(base: Path) -> Plan:
    return tiny_plan(base, method={"kind": "fedavg"}, task={"max_length": 8, "buckets": [8]})


def _room(monkeypatch: pytest.MonkeyPatch, reason: str | None) -> None:
    """A room of the fused engine that covers every plan, or none for this reason."""
    monkeypatch.setattr(engines, "_fused", lambda: SimpleNamespace(covers=lambda _plan, _folder: reason))


def _none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda _name: None)


def _site(folder: Path, **given: str) -> Site:
    return site_of(folder, resources=given)


def test_a_site_is_refused_what_its_engine_does_not_compute(
    lora: Plan, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And gets no other engine in its place."""
    _room(monkeypatch, WHY)
    with pytest.raises(ConfigError, match="roberta") as caught:
        RoundTrainer(lora, base, engine="fused")
    assert caught.value.where == "resources.engine"
    assert "opacus" in caught.value.mend
    require("opacus", lora, base)
    require("fused", tiny_plan(base), base)  # of the last layer alone: no engine is asked
    _room(monkeypatch, None)
    require("fused", lora, base)


def test_an_installation_without_the_fused_engine_says_so(
    lora: Plan, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _none(monkeypatch)
    with pytest.raises(PrivetError, match="no fused engine"):
        engines.installed("fused")
    with pytest.raises(PrivetError, match="no fused engine"):
        RoundTrainer(lora, base, engine="fused")
    step = machine.gradients_step(_site(tmp_path, engine="fused"), None, None)
    assert step.status is Status.FAILED
    engines.installed("opacus")


@pytest.mark.parametrize("reason", [None, WHY])
def test_a_simulation_takes_the_fused_engine_where_it_can_and_says_which(
    lora: Plan, base: Path, monkeypatch: pytest.MonkeyPatch, reason: str | None
) -> None:
    _room(monkeypatch, reason)
    name, words = choose("auto", lora, base)
    assert name == ("fused" if reason is None else "opacus")
    assert (reason or "the fused engine") in words
    assert choose("opacus", lora, base)[0] == "opacus"
    if reason is None:
        assert choose("fused", lora, base)[0] == "fused"
    else:
        with pytest.raises(ConfigError, match="roberta"):
            choose("fused", lora, base)
    assert not_covered(lora, base) == reason


def test_no_engine_covers_anything_where_none_is(lora: Plan, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _none(monkeypatch)
    assert choose("auto", lora, base)[0] == "opacus"
    assert "no fused engine" in (not_covered(lora, base) or "")


# At a site


def test_an_offer_that_the_engine_does_not_compute_is_answered_by_one_code(
    lora: Plan, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is reserved, and the operator reads why."""
    _room(monkeypatch, WHY)
    bench = Bench(tmp_path, lora, base, resources={"engine": "fused"})
    reply = bench.offer()
    assert reply.code is Code.UNAVAILABLE
    assert not reply.arrays
    assert "roberta" in bench.told[-1][1]
    assert bench.train().code is not Code.OK
    assert not bench.ledger.events()
    # and the approved plan is found at the next start, before anything connects
    with pytest.raises(ConfigError, match="roberta"):
        app._refuse_engine(bench.site, bench.ledger)
    app._refuse_engine(site_of(tmp_path), bench.ledger)
    _room(monkeypatch, None)
    app._refuse_engine(bench.site, bench.ledger)
    bench.close()


def test_the_sites_precision_is_what_the_agent_computes_in(
    lora: Plan, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "bfloat16_hardware", lambda *_: "AMX")
    bench = Bench(tmp_path, lora, base, resources={"precision": "auto"})
    assert bench.offer().code is Code.OK
    prepared: Any = bench.agent._prepared
    assert prepared.trainer.precision == "bfloat16"
    assert any(isinstance(module, FrozenLinear) for module in prepared.trainer.classifier.modules())
    bench.close()


@pytest.mark.parametrize(
    ("asked", "hardware", "status", "words"),
    [
        ("float32", "AMX", Status.PASSED, "all in float32"),
        ("auto", "AMX", Status.PASSED, "AMX"),
        ("auto", None, Status.PASSED, "no bfloat16 hardware"),
        ("bfloat16", "AMX", Status.PASSED, "bfloat16"),
        ("bfloat16", None, Status.WARNING, "no bfloat16 hardware"),
    ],
)
def test_check_tells_precision_and_engine(
    lora: Plan, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str, hardware: Any, status: Status,
    words: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(precision, "bfloat16_hardware", lambda *_: hardware)
    step = machine.gradients_step(_site(tmp_path, precision=asked), lora, base)
    assert step.status is status
    assert words in step.what
    assert "Opacus" in step.what
    assert step.numbers["precision"] == ("bfloat16" if hardware and asked != "float32" else "float32")
    _room(monkeypatch, WHY)
    assert machine.gradients_step(_site(tmp_path, engine="fused"), lora, base).status is Status.FAILED


def test_the_words_of_pages_are_of_plan_and_file_alone(
    lora: Plan, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "bfloat16_hardware", lambda *_: pytest.fail("looked at the machine"))
    site = _site(tmp_path, engine="fused", precision="auto")
    assert asked_in_words(site, lora).startswith("by the fused engine")
    assert "where the machine has it" in asked_in_words(site, lora)
    assert asked_in_words(site, tiny_plan(base)).startswith("by the closed form of the last layer")
    lines = describe(lora, make_admission(lora), site, update_bytes=None, known=None)
    assert any(asked_in_words(site, lora) in line for line in lines)


def test_the_event_at_start_tells_what_the_machine_comes_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "bfloat16_hardware", lambda *_: None)
    assert "no bfloat16 hardware" in found_in_words(_site(tmp_path, precision="bfloat16"))
    assert found_in_words(_site(tmp_path)) == "gradients by Opacus; float32."


# What is made


def test_engines_by_plan_and_precision(lora: Plan, base: Path) -> None:
    assert type(RoundTrainer(lora, base).engine(1)) is OpacusEngine
    assert type(RoundTrainer(lora, base, precision="bfloat16").engine(1)) is RoundedOpacusEngine
    assert type(RoundTrainer(tiny_plan(base), base, precision="bfloat16").engine(1)) is LinearEngine


def test_the_fused_room_is_asked_with_all_that_it_needs(
    lora: Plan, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    trainer = RoundTrainer(lora, base)
    room = SimpleNamespace(covers=lambda *_: None, engine_of=lambda *given: asked.append(given))
    monkeypatch.setattr(engines, "_fused", lambda: room)
    trainable = trainer.method.trainable(trainer.spec, 1)
    engines.gradient_engine("fused", trainer.classifier, trainable, base, precision="bfloat16")
    assert asked == [(trainer.classifier, base, trainable, "bfloat16")]


def test_the_self_test_in_bfloat16_is_as_tight_and_sees_a_mate(
    lora: Plan, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A base whose rows know each other is refused, though its oracle has the same shape."""
    genuine = FrozenLinear.forward

    def coupled(self: FrozenLinear, x: torch.Tensor) -> torch.Tensor:
        return genuine(self, x + 1e-2 * x.mean(0, keepdim=True))

    RoundTrainer(lora, base, precision="bfloat16")
    monkeypatch.setattr(FrozenLinear, "forward", coupled)
    with pytest.raises(PrivetError, match="brute force"):
        RoundTrainer(lora, base, precision="bfloat16")
