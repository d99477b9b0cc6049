"""What must hold after a run, from its files alone: the adapter, every ledger, every lock."""

import fcntl
import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from privet.common.base import checked_base
from privet.common.config import Plan, load_federation
from privet.common.messages import Request, TrainBody, unpack
from privet.common.methods import Update, method_for
from privet.common.model import build_classifier, initial_arrays
from privet.server.checkpoint import load_checkpoint
from tests.chaos.scene import Scene


@dataclass(frozen=True)
class Ledgers:
    """What the ledgers hold, by site and round."""

    events: dict[str, dict[int, str]]  # the state of each training event
    replies: dict[str, dict[int, bytes]]
    requests: dict[str, dict[int, str]]  # SHA-256 of the request that each answers

    @property
    def wasted(self) -> int:
        """Events that were paid for and gave no reply."""
        return sum(state != "stored" for events in self.events.values() for state in events.values())

    @property
    def total(self) -> int:
        return sum(map(len, self.events.values()))


def ledgers(scene: Scene, out: Path) -> Ledgers:
    """Every ledger verifies, and holds each round once: as read by the site's own command."""
    events: dict[str, dict[int, str]] = {}
    replies: dict[str, dict[int, bytes]] = {}
    requests: dict[str, dict[int, str]] = {}
    for name, site in scene.sites.items():
        state = site.environment["XDG_STATE_HOME"]
        file = str(scene.deployment.folder / name / "site.toml")
        document = json.loads(scene.deployment.run("ledger", file, "--json", XDG_STATE_HOME=state).stdout)
        rounds = [event["round"] for event in document["events"] if event["kind"] == "train"]
        assert len(rounds) == len(set(rounds))
        events[name] = {event["round"]: event["state"] for event in document["events"] if event["kind"] == "train"}
        scene.deployment.run("ledger", file, "--verify", XDG_STATE_HOME=state)
        scene.deployment.run("ledger", file, "--export", str(out / name), XDG_STATE_HOME=state)
        manifest = json.loads((out / name / "manifest.json").read_text())
        replies[name], requests[name] = {}, {}
        for entry in manifest:
            content = (out / name / entry["file"]).read_bytes()
            assert hashlib.sha256(content).hexdigest() == entry["reply_sha256"]
            replies[name][entry["round"]] = content
            requests[name][entry["round"]] = entry["request_sha256"]
    return Ledgers(events, replies, requests)


def check_truth(scene: Scene, found: Ledgers) -> None:
    """Nothing was trained that the ledger does not hold, and nothing twice."""
    for name, site in scene.sites.items():
        began = Counter(int(line) for line in site.truth.read_text().split())
        assert set(began) <= set(found.events[name]), f"{name} trained a round that its ledger does not hold"
        assert max(began.values(), default=0) <= 1, f"{name} trained a round twice: {began}"


def check_adapter(scene: Scene, found: Ledgers) -> dict[str, int]:
    """The final adapter is what the sites' stored replies give, round by round, to the bit.

    Every request that a site answered was the one that this state gives: no site was asked for anything else.
    """
    (run,) = (scene.deployment.home / "runs").glob("tiny-*Z")
    plan = load_federation(scene.deployment.home / "federation.toml").plan
    classifier = build_classifier(plan, checked_base(plan.model.base, plan.model.sha256))
    method, spec = method_for(plan), classifier.spec
    state = method.init(initial_arrays(classifier))
    rows = [row for row in map(json.loads, _whole_lines(run / "metrics.jsonl")) if row["event"] == "round"]
    assert [row["round"] for row in rows] == sorted({row["round"] for row in rows})
    assert rows[-1]["round"] <= plan.training.horizon
    answered: Counter[str] = Counter()
    for row in rows:
        asked = Request(
            TrainBody(plan_digest=plan.digest, round=row["round"]), method.broadcast(spec, state, row["round"])
        )
        for name in row["answered"]:
            assert found.requests[name][row["round"]] == asked.sha256, f"{name}, round {row['round']}"
        if row["aggregated"]:
            updates = [
                _update(plan, found, name, row["round"], len(row["answered"])) for name in sorted(row["answered"])
            ]
            state = method.aggregate(spec, state, row["round"], updates)
            answered.update(row["answered"])
    completed = sum(row["aggregated"] for row in rows)
    assert completed == plan.training.rounds or rows[-1]["round"] == plan.training.horizon  # no spare round is left
    checkpoint = load_checkpoint(sorted((run / "checkpoints").glob("round-*.safetensors"))[-1])
    assert checkpoint.state.arrays.keys() == state.arrays.keys()
    for name, array in state.arrays.items():
        np.testing.assert_array_equal(checkpoint.state.arrays[name], array)
    assert (run / "adapter" / "privacy.json").is_file()
    return dict(answered)


def check_nothing_left(scene: Scene) -> None:
    """No process, no lock."""
    assert not scene.zygote.alive
    locks = [scene.deployment.home / "state" / "server.lock"]
    locks += [path for name in scene.sites for path in (scene.deployment.folder / f"state.{name}").rglob("*.lock")]
    assert len(locks) >= 1 + len(scene.sites)
    for path in locks:
        with path.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _update(plan: Plan, found: Ledgers, name: str, round: int, num_sites: int) -> Update:
    reply = unpack(found.replies[name][round])
    assert (reply.body.plan_digest, reply.body.round) == (plan.digest, round)
    return Update(dict(reply.arrays), 1.0 / num_sites)


def _whole_lines(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line.endswith("}")]
