"""A server that was killed goes on with its run, and ends as if nothing had been."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message

from privet.common.config import Plan
from privet.common.errors import ConfigError, RunError, StoppedError
from privet.common.messages import Request
from privet.server.resume import choose_run, resumable, unattended
from privet.server.run_folder import RunFolder
from tests.server.restarts import House, Keeper, Killed, outcome
from tests.server.scripted import Site, plan
from tests.server.test_metrics import evaluated, releasing


def _sites(number: int) -> list[Keeper]:
    return [Keeper(f"s{index}", statement=releasing(1.0)) for index in range(number)]


PLANS: dict[str, Plan] = {
    "head, by public accuracy": plan(
        method={"kind": "head", "server_momentum": 0.9},
        training={"rounds": 4, "spare_rounds": 1},
        evaluation={"keep": "best", "patience": 2},
        cohort={"fraction": 0.5},
    ),
    "fedavg, by the sites": evaluated(
        method={"kind": "fedavg", "server_momentum": 0.5},
        training={"rounds": 3},
        evaluation={"every": 2, "metric": "sites", "keep": "best"},
        cohort={"fraction": 0.7},
    ),
}


@pytest.mark.parametrize("name", PLANS)
def test_a_server_killed_at_any_moment_ends_as_an_undisturbed_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    """At every moment, and at every third once more after it was started again."""
    whole_sites = _sites(3)
    whole = House(monkeypatch, tmp_path / "whole", PLANS[name], whole_sites)
    ended = whole.serve()
    assert ended is not None
    expected, moments = outcome(ended, whole_sites), whole.fuse.burnt
    assert moments > 40
    replayed = 0
    for moment in range(1, moments + 1):
        sites = _sites(3)
        house = House(monkeypatch, tmp_path / str(moment), PLANS[name], sites)
        assert house.serve(kill_after=moment) is None
        lives = 1
        begun = any(house.runs.glob("*/plan.toml"))  # else it was killed before there was a run
        while (again := house.serve(resume=begun, kill_after=lives * 9 if moment % 3 == 0 else 1000)) is None:
            lives, begun = lives + 1, True
        assert outcome(again, sites) == expected, moment
        replayed += sum(site.replayed for site in sites)
        assert len(list(house.runs.glob("*/plan.toml"))) == 1
    assert replayed > 10  # else no request was ever sent twice


def _stopped(monkeypatch: pytest.MonkeyPatch, folder: Path, when: str, rounds: int = 4, **tables: Any) -> House:
    """A house whose server was killed where an event of this kind was told for the second time."""
    house = House(monkeypatch, folder, plan(training={"rounds": rounds}, **tables), _sites(3))
    seen = 0
    record = RunFolder.record

    def recorded(self: RunFolder, event: dict[str, Any]) -> None:
        nonlocal seen
        record(self, event)
        seen += event["event"] == when
        if seen == 2:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "record", recorded)
        assert house.serve() is None
    return house


def test_a_torn_checkpoint_is_passed_over_and_its_round_replayed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = House(monkeypatch, tmp_path / "whole", plan(training={"rounds": 4}), _sites(3))
    ended = whole.serve()
    assert ended is not None
    house = _stopped(monkeypatch, tmp_path / "torn", "round")
    newest = sorted(house.folder.glob("checkpoints/round-*"))[-1]
    assert newest.name == "round-00002.safetensors"
    newest.write_bytes(newest.read_bytes()[:-5])
    again = house.serve(resume=True)
    assert again is not None
    assert outcome(again, house.sites) == outcome(ended, whole.sites)
    (warning,) = house.told("warning")
    assert newest.name in warning["text"]


def test_after_a_torn_checkpoint_no_round_is_asked_with_other_content(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Round 3 went out from a state that is lost; a site that took part in it is away now."""
    house = _stopped(monkeypatch, tmp_path, "round")
    kept = house.sites[1].train

    def last_words(site: Site, message: Message, request: Request) -> list[Message]:
        kept(site, message, request)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(house.sites[1], "train", last_words)
        assert house.serve(resume=True) is None
    assert ("train", 3) in house.sites[1].ledger
    newest = sorted(house.folder.glob("checkpoints/round-*"))[-1]
    assert newest.name == "round-00002.safetensors"
    damaged = bytearray(newest.read_bytes())
    damaged[-3] ^= 1  # of a whole length: only the digest tells
    newest.write_bytes(damaged)
    house.sites[2].online = False
    again = house.serve(resume=True)
    assert again is not None
    assert [site.altered for site in house.sites] == [0, 0, 0]
    assert [row["round"] for row in again.history] == [1, 2, 3, 4]
    lost = again.history[2]
    assert (lost["aggregated"], lost["answered"], lost["missing"]) == (False, [], [])
    assert lost["failed"] == {"s0": "round_lost", "s1": "round_lost", "s2": "round_lost"}
    assert again.completed == 3
    assert any("other content" in warning["text"] for warning in house.told("warning"))


def test_those_of_the_cohort_are_waited_for_and_then_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    house = _stopped(monkeypatch, tmp_path, "round_started", cohort={"timeout": 50.0})
    house.sites[1].online = False
    before = house.clock.now
    again = house.serve(resume=True)
    assert again is not None
    (awaiting,) = house.told("awaiting")
    assert (awaiting["round"], awaiting["sites"]) == (2, ["s1"])
    assert 50 <= house.clock.now - before < 60
    assert [row["missing"] for row in again.history] == [[], ["s1"], [], []]
    assert again.completed == 4


def test_a_site_that_comes_back_late_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    house = _stopped(monkeypatch, tmp_path, "round_started", cohort={"timeout": 50.0})
    house.sites[1].online = False
    then = house.clock.now + 20

    def back(_waited: float) -> None:
        house.sites[1].online = house.clock.now >= then

    house.clock.on_wait = back
    again = house.serve(resume=True)
    assert again is not None
    assert [row["missing"] for row in again.history] == [[]] * 4


def test_a_cohort_that_does_not_come_back_costs_the_others_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    the_plan = plan(training={"rounds": 3, "spare_rounds": 1}, cohort={"fraction": 0.5, "timeout": 30.0})
    house = House(monkeypatch, tmp_path, the_plan, _sites(4))
    while house.serve(resume=house.runs.exists(), kill_after=10) is None and not house.told("round_started"):
        pass
    cohort = house.told("round_started")[-1]["cohort"]
    number = house.told("round_started")[-1]["round"]
    for site in house.sites:
        site.online = site.name not in cohort
        site.ledger.clear()
    again = house.serve(resume=True)
    assert again is not None
    row = again.history[number - 1]
    assert (row["aggregated"], row["missing"]) == (False, cohort)
    for site in house.sites:
        assert ("train", number) not in site.ledger
    assert again.completed == 3


def test_too_few_sites_end_the_wait_and_the_run_can_go_on_later(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    house = _stopped(monkeypatch, tmp_path, "round_started")
    house.sites[0].online = house.sites[1].online = False
    with pytest.raises(RunError, match="s0: away") as caught:
        house.serve(resume=True)
    assert "--resume" in caught.value.mend
    house.sites[0].online = house.sites[1].online = True
    again = house.serve(resume=True)
    assert again is not None
    assert again.completed == 4


def test_statements_of_sites_that_never_came_back_stand_in_the_report(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    house = _stopped(monkeypatch, tmp_path, "round", cohort={"timeout": 5.0})
    house.sites[1].online = False
    again = house.serve(resume=True)
    assert again is not None
    assert set(again.roster.statements) == {"s0", "s1", "s2"}


def test_a_torn_last_line_is_dropped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    house = _stopped(monkeypatch, tmp_path, "round")
    with (house.folder / "metrics.jsonl").open("ab") as file:
        file.write(b'{"event": "rou')
    again = house.serve(resume=True)
    assert again is not None
    text = (house.folder / "metrics.jsonl").read_text()
    assert [row["round"] for row in again.history] == [1, 2, 3, 4]
    assert all(json.loads(line) for line in text.splitlines())


# Which run


def _choose(house: House, the_plan: Plan | None = None, *, resume: bool) -> Any:
    command = "privet server federation.toml --resume"
    return choose_run(house.runs, the_plan or house.plan, resume=resume, command=command)


def test_nothing_to_resume(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    house = House(monkeypatch, tmp_path, plan(), _sites(2))
    with pytest.raises(ConfigError, match="nothing to resume") as caught:
        _choose(house, resume=True)
    assert "without --resume" in caught.value.mend
    assert caught.value.exit_code == 2


def test_an_unfinished_run_is_not_started_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    house = _stopped(monkeypatch, tmp_path, "round")
    with pytest.raises(ConfigError, match="unfinished run") as caught:
        _choose(house, resume=False)
    assert "privet server federation.toml --resume" in caught.value.mend
    assert caught.value.where == str(house.folder)


def test_a_finished_run_is_neither_resumed_nor_started_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    house = House(monkeypatch, tmp_path, plan(), _sites(2))
    assert house.serve(finish=True) is not None
    with pytest.raises(ConfigError, match="is finished"):
        _choose(house, resume=True)
    with pytest.raises(ConfigError, match="run to its end"):
        _choose(house, resume=False)
    assert _choose(house, plan(training={"rounds": 7}), resume=False) is None


def test_a_changed_plan_is_told_with_both_digests(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    house = _stopped(monkeypatch, tmp_path, "round")
    changed = plan(training={"rounds": 9})
    with pytest.raises(ConfigError) as caught:
        _choose(house, changed, resume=True)
    assert house.plan.digest in str(caught.value)
    assert changed.digest in str(caught.value)
    assert _choose(house, changed, resume=False) is None


def test_of_several_unfinished_runs_the_newest_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    house = _stopped(monkeypatch, tmp_path, "round")
    older = house.folder
    older.rename(tmp_path / older.name)
    assert house.serve(kill_after=20) is None
    newer = house.folder
    (tmp_path / older.name).rename(older)
    assert newer.name > older.name
    assert _choose(house, resume=True).path == newer


def test_a_run_in_which_nothing_was_asked_stands_in_nobodys_way(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    house = House(monkeypatch, tmp_path, plan(), _sites(2))
    house.sites[0].online = False
    with pytest.raises(RunError, match="sites were ready"):
        house.serve()
    assert _choose(house, resume=False) is None
    going = _choose(house, resume=True)
    assert (going.path, going.progress.checkpoint.round) == (house.folder, 0)


def test_a_simulated_run_is_no_run_of_the_server(tmp_path: Path) -> None:
    folder = RunFolder.new(tmp_path, plan())
    folder.record({"event": "round_started", "simulated": True, "round": 1})
    folder.close()
    assert choose_run(tmp_path, plan(), resume=False, command="") is None
    with pytest.raises(ConfigError, match="nothing to resume"):
        choose_run(tmp_path, plan(), resume=True, command="")


def test_without_any_checkpoint_a_begun_run_does_not_go_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    house = _stopped(monkeypatch, tmp_path, "round")
    for path in house.folder.glob("checkpoints/round-*"):
        path.write_bytes(b"")
    with pytest.raises(RunError, match="no checkpoint can be read"):
        _choose(house, resume=True)


# What the file system refuses


@pytest.mark.parametrize("call", ["fsync", "write"])
def test_a_full_disk_ends_the_run_with_a_clear_error_and_nothing_torn(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, call: str
) -> None:
    """At every write there is, in turn; after space is free the run goes on to the same end."""
    the_plan = plan(training={"rounds": 2})
    whole = House(monkeypatch, tmp_path / "whole", the_plan, _sites(2))
    ended = whole.serve()
    assert ended is not None
    genuine = getattr(os, call)
    refused = 0
    for moment in range(1, 200, 3):
        house, left = House(monkeypatch, tmp_path / str(moment), the_plan, _sites(2)), moment

        def full(*arguments: Any, call: str = call, genuine: Any = genuine) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                if call == "write":
                    genuine(arguments[0], arguments[1][:7])  # a part still fitted
                raise OSError(errno.ENOSPC, "No space left on device")
            return genuine(*arguments) if call == "write" else None

        with monkeypatch.context() as patch:
            patch.setattr(os, call, full)
            error: RunError | None = None
            try:
                house.serve()
            except RunError as caught:
                error = caught
        if error is None:
            break  # fewer writes than that
        refused += 1
        assert "No space left" in error.what
        assert str(tmp_path) in error.where
        assert "--resume" in error.mend
        assert error.exit_code == 1
        assert not list(house.folder.glob("**/*.partial"))
        metrics = house.folder / "metrics.jsonl"  # without it there was no run yet
        assert not metrics.exists() or metrics.read_bytes()[-1:] in (b"", b"\n")
        again = house.serve(resume=metrics.exists())
        assert again is not None
        assert outcome(again, house.sites) == outcome(ended, whole.sites)
    assert refused > 2


def test_the_operators_stop_names_the_command_to_go_on_with() -> None:
    with pytest.raises(StoppedError, match="stopped") as caught, resumable("privet server f.toml --resume"):
        raise KeyboardInterrupt
    assert "continue with `privet server f.toml --resume`" in caught.value.mend
    assert caught.value.exit_code == 0  # a service manager's stop is no failure


def test_an_unattended_server_begins_goes_on_and_leaves_a_finished_run_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    house = House(monkeypatch, tmp_path, plan(), _sites(2))
    assert unattended(tmp_path / "runs", house.plan) is False
    assert house.serve(kill_after=20) is None
    assert unattended(house.folder.parent, house.plan) is True
    assert house.serve(resume=True, finish=True) is not None
    assert unattended(house.folder.parent, house.plan) == house.folder
    assert unattended(house.folder.parent, plan(training={"rounds": 9})) is False
