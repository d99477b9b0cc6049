"""A method that is not privet's own at a site: imported on the operator's word alone, and told by name."""

import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privet.client import rehearsal
from privet.client.check import judge
from privet.client.describe import changes, describe
from privet.client.policy import admit
from privet.client.rules import in_words
from privet.client.software import installed
from privet.client.training import RoundTrainer
from privet.client.update_size import update_bytes
from privet.common.adapter import Floats, digest
from privet.common.config import Plan
from privet.common.errors import Code
from privet.common.methods import ROLES, Averaging, Values
from privet.common.privacy.noise import SeededNoise
from tests.client.agent_bench import Bench, site_of
from tests.client.approval_cases import edit
from tests.client.ledger_cases import NOTHING, make_plan, make_site
from tests.client.rehearsal_bench import RoomHere, Server
from tests.client.test_rehearsal import rehearsals
from tests.client.trainer_cases import event_of, examples_of, plan_of
from tests.plugins import install, install_fedprox, install_marked
from tests.tiny_models import tiny_plan

OWN = ("head", "fedavg", "ffa")


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The method `marked` is installed; the file is there once its code was imported."""
    monkeypatch.syspath_prepend(tmp_path / "packages")
    (tmp_path / "packages").mkdir()
    found = install_marked(tmp_path / "packages")
    sys.modules.pop("privet_marked_of_a_test", None)
    return found


def _marked(base: Path, kind: str = "marked") -> Plan:
    return tiny_plan(base, method={"kind": kind}, training={"rounds": 3, "local_steps": 2, "expected_batch": 5})


@contextmanager
def _bench(folder: Path, plan: Plan, base: Path, **changes: Any) -> Iterator[Bench]:
    """`Bench` makes the server's initial adapter by the plan; here by one of privet's own, which derives the same."""
    made = Bench(folder, plan.model_copy(update={"method": _marked(base, "head").method}), base, **changes)
    made.plan = plan
    with closing(made.ledger):
        yield made


# The operator's word


def test_what_the_policy_does_not_list_is_refused_and_not_imported(tmp_path: Path, base: Path, marker: Path) -> None:
    plan = _marked(base)
    with _bench(tmp_path, plan, base) as bench:
        for _ in range(2):
            assert bench.offer().code is Code.REFUSED_POLICY
        assert bench.train().code is Code.REFUSED_POLICY
        assert not bench.ledger.events()
        words = bench.told[0][1]
        assert "Method marked (of privet-marked 1.2.3, installed here; not privet's own)" in words
        assert "once you trust the package" in words
        assert judge(plan, bench.site, bench.path).admission.decision == "refused"
    assert not marker.exists()


def test_a_rehearsal_imports_nothing_that_is_not_listed(
    tmp_path: Path, base: Path, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rehearsal, "Apart", RoomHere)
    plan = _marked(base)
    server = Server(plan, base)
    answers = [rehearsals(tmp_path, plan).answer(server.offer(plan)).body.code]
    assert not marker.exists()
    answers.append(rehearsals(tmp_path, plan, policy__methods=("marked",)).answer(server.offer(plan)).body.code)
    assert answers == [Code.REFUSED_POLICY, Code.OK]
    assert marker.exists()


def test_what_is_listed_runs(tmp_path: Path, base: Path, marker: Path) -> None:
    with _bench(tmp_path, _marked(base), base, policy__approve="ask", policy__methods=("marked",)) as bench:
        assert bench.offer().code is Code.PENDING
    with _bench(tmp_path, _marked(base), base, policy__methods=(*OWN, "marked")) as bench:
        assert bench.offer().code is Code.OK
        assert marker.exists()
        reply = bench.train()
        assert reply.code is Code.OK
        assert set(reply.arrays) == {"head.weight", "head.bias"}


def test_a_policy_that_lists_it_no_more_stops_an_approved_plan(tmp_path: Path, base: Path, marker: Path) -> None:
    with _bench(tmp_path, _marked(base), base, policy__methods=(*OWN, "marked")) as bench:
        assert bench.offer().code is Code.OK
        marker.unlink()
        sys.modules.pop("privet_marked_of_a_test")
        bench.site = site_of(tmp_path)
        bench.agent = bench.fresh()
        assert bench.offer().code is Code.REFUSED_POLICY
        assert bench.train().code is Code.UNKNOWN_PLAN
    assert not marker.exists()


def test_a_site_that_lacks_it_refuses_before_anything_is_reserved(tmp_path: Path, base: Path) -> None:
    with _bench(tmp_path, _marked(base, "elsewhere"), base, policy__methods=("elsewhere",)) as bench:
        assert bench.offer().code is Code.REFUSED_POLICY
        words = bench.told[0][1]
        assert "no method elsewhere is installed here" in words
        assert "install the package that provides it" in words
        assert bench.ledger.committed("tiny").epsilon == 0


@pytest.mark.parametrize("kind", ["Head", "fed-avg", "fed_avg"])
def test_one_that_looks_like_privets_own_never_runs(kind: str, marker: Path) -> None:
    packages = marker.parent
    text = f"open({str(marker)!r}, 'w').close()\n"
    install(packages, "privet-evil", "6", {"privet_evil_at_a_site": text}, {kind: "privet_evil_at_a_site:create"})
    listed = [name for name in (kind, *OWN) if name == name.lower()]
    site = make_site(policy={"methods": listed, "approve": "first-use"})
    assert admit(edit(make_plan(), method={"kind": "head"}), site, NOTHING).decision == "approved"
    if kind in listed:
        assert admit(edit(make_plan(), method={"kind": kind}), site, NOTHING).code is Code.REFUSED_POLICY
    assert not marker.exists()


def test_options_that_it_does_not_take_are_refused_at_the_offer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(install_fedprox(tmp_path))
    site = make_site(policy={"methods": ["fedprox", "head"]})
    for method in ({"kind": "fedprox", "options": {"nu": 1}}, {"kind": "head", "options": {"mu": 1}}):
        admission = admit(edit(make_plan(), method=method), site, NOTHING)
        assert admission.code is Code.REFUSED_POLICY
        assert "option" in admission.reason
    assert admit(edit(make_plan(), method={"kind": "fedprox", "options": {"mu": 1}}), site, NOTHING).event is not None


# What is told


def test_the_one_who_decides_is_told_whose_method_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = make_site(policy={"methods": [*OWN, "fedprox"]})
    plan = edit(make_plan(), method={"kind": "fedprox", "options": {"mu": 0.25, "trains": "ffa\x1b[2J"}})
    lacking = admit(plan, site, NOTHING)
    assert "fedprox (not installed here)" in "\n".join(describe(plan, lacking, site, update_bytes=None, known=None))
    monkeypatch.syspath_prepend(install_fedprox(tmp_path))
    asked = edit(plan, method={"options": {"mu": 0.25, "trains": "ffa"}})
    text = "\n".join(describe(asked, admit(asked, site, NOTHING), site, update_bytes=None, known=plan))
    whose = "fedprox (of privet-fedprox 0.1.0, installed here; not privet's own)"
    assert f"method: {whose} with mu = 0.25, trains = 'ffa', adamw" in text
    assert r"method.options.trains: 'ffa\x1b[2J' → 'ffa'" in text
    assert "\x1b" not in text
    assert any("fedprox (of privet-fedprox 0.1.0" in rule for rule in in_words(site, "wards"))
    (package,) = [package for package in installed().packages if package.methods]
    assert (package.name, package.version, package.methods) == ("privet-fedprox", "0.1.0", ("fedprox",))
    assert len(package.sha256) == 64


def test_a_change_of_options_is_a_change_of_the_plan() -> None:
    plain = make_plan()
    first, second = (edit(plain, method={"kind": "fedprox", "options": {"mu": mu}}) for mu in (0.1, 0.2))
    assert changes(first, second) == ["method.options.mu: 0.1 → 0.2", "unchanged otherwise"]
    assert "method.options.mu: none → 0.1" in changes(plain, first)
    assert len({plain.digest, first.digest, second.digest}) == 3


def test_no_size_is_made_up_for_it(base: Path) -> None:
    assert update_bytes(_marked(base, "ffa"), base)
    assert update_bytes(_marked(base), base) is None


# The hook on gradients

Seen = list[tuple[Floats, Floats, Floats]]


@dataclass(frozen=True)
class Spy(Averaging):
    """FedProx, told without the example; keeps what it was given."""

    mu: float = 0.0
    seen: Any = None

    def local_gradient(self, gradient: Values, weights: Values, start: Values) -> Values:
        self.seen.append((gradient.copy(), weights.copy(), start.copy()))
        return gradient + np.float32(self.mu) * (weights - start)


def _spied(base: Path, mu: float, kind: str = "ffa", learning_rate: float = 0.5, **event: Any) -> tuple[Floats, Seen]:
    """One round of the plan from the same weights, with the same draws: the update, and what the hook saw."""
    trainer = RoundTrainer(plan_of(base, method=kind, learning_rate=learning_rate), base)
    seen: Seen = []
    trainer.method = Spy(kind, ROLES[kind], mu=mu, seen=seen)
    update = trainer.update(trainer.classifier.read(), examples_of(trainer), 1, event_of(**event), SeededNoise(3))
    return np.concatenate([array.ravel() for array in update.values()]), seen


def test_the_hook_sees_noised_gradients_and_no_others(base: Path) -> None:
    settings: dict[str, Any] = {"max_grad_norm": 0.5, "expected_batch": 3, "sample_rate": 0.5}
    clean, noised = (_spied(base, 0.0, noise_multiplier=sigma, **settings)[1][0][0] for sigma in (0.0, 2.0))
    noise = (noised.astype(np.float64) - clean) * 3 / (2.0 * 0.5)
    assert noise.size > 200
    assert 0.8 < float(noise.std()) < 1.2
    assert abs(float(noise.mean())) < 0.25


def test_weights_follow_the_pulled_gradient_step_by_step(base: Path) -> None:
    """w ← w − η (g + μ (w − w₀)), computed anew from the gradients that the hook was given."""
    update, seen = _spied(base, 0.4, steps=5, noise_multiplier=1.0)
    seen = [tuple(of_sites[0] for of_sites in given) for given in seen]  # of the one site
    start = seen[0][2].astype(np.float64)
    weights = start.copy()
    assert len(seen) == 5
    for gradient, now, began in seen:
        np.testing.assert_allclose(now, weights, atol=1e-5)
        assert np.array_equal(began, seen[0][2])
        weights = weights - 0.5 * (gradient + 0.4 * (weights - start))
    np.testing.assert_allclose(update, weights - start, atol=1e-5)


def test_a_pull_keeps_weights_nearer_to_where_they_began(base: Path) -> None:
    moved = [float(np.linalg.norm(_spied(base, mu, steps=6)[0])) for mu in (0.0, 0.5, 1.5)]
    assert moved[0] > 1.2 * moved[1] > 1.2 * moved[2] > 0


@pytest.mark.parametrize("kind", ["head", "fedavg"])
def test_the_example_is_that_and_without_a_pull_it_is_fedavg(
    kind: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(install_fedprox(tmp_path))

    def update(method: dict[str, Any]) -> dict[str, Floats]:
        plan = edit(plan_of(base, learning_rate=0.5), method=method)
        trainer = RoundTrainer(plan, base)
        tokens = examples_of(trainer)
        from privet.common.inference import frozen_features

        examples = frozen_features(trainer.classifier, tokens) if trainer.frozen_features else tokens
        event = event_of(steps=4, noise_multiplier=1.0)
        return trainer.update(trainer.classifier.read(), examples, 1, event, SeededNoise(3))

    plain = update({"kind": kind})
    still, pulled = (update({"kind": "fedprox", "options": {"trains": kind, "mu": mu}}) for mu in (0, 0.4))
    assert digest(still) == digest(plain)
    expected, _ = _spied(base, 0.4, kind, steps=4, noise_multiplier=1.0) if kind != "head" else (None, None)
    if expected is not None:
        np.testing.assert_allclose(np.concatenate([a.ravel() for a in pulled.values()]), expected, atol=1e-5)
    assert digest(pulled) != digest(plain)


@pytest.mark.parametrize("hook", ["gradient + len(str(gradient)) * float('nan')", "1 / 0", "gradient[..., 1:]"])
def test_a_fault_while_it_trains_is_one_code_and_spends_the_round(
    hook: str, tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It tries out well at the offer; what goes wrong later is told to the operator alone."""
    text = (
        "from privet.common.methods import ROLES, Averaging\n\n"
        "class Broken(Averaging):\n"
        "    def local_gradient(self, gradient, weights, start):\n"
        f"        return gradient if gradient.shape[-1] == 7 else {hook}\n\n"
        "def create(plan):\n"
        "    return Broken('broken', ROLES['head'])\n"
    )
    module = "privet_broken_at_a_site"
    install(tmp_path / "packages", "privet-broken", "1", {module: text}, {"broken": f"{module}:create"})
    monkeypatch.syspath_prepend(tmp_path / "packages")
    sys.modules.pop(module, None)
    with _bench(tmp_path, _marked(base, "broken"), base, policy__methods=("broken",)) as bench:
        assert bench.offer().code is Code.OK
        reply = bench.train()
        assert reply.code is Code.UNAVAILABLE
        assert not reply.arrays
        assert [event.state for event in bench.ledger.events()] == ["reserved"]
        assert any("broken of privet-broken 1 is at fault" in text for kind, text in bench.told if kind == "error")
        assert bench.train().code is Code.ROUND_LOST
