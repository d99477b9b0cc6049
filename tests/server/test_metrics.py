"""The sites' metrics: who is asked and when, which replies count, and that no reply ends a run."""

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import Error, Message, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from privet.common.adapter import digest
from privet.common.errors import Code
from privet.common.messages import COUNTS, EvaluateBody, Request, TrainBody
from privet.common.privacy.statement import Statement
from privet.common.tasks.classification import noised_metrics
from privet.server.metrics import Stated, evaluation_number, pool, stated
from tests.server.scripted import (
    Site,
    claimless,
    coded,
    from_node,
    plan,
    record,
    reply_to,
    scene,
    silent,
    sound,
)


def releasing(sigma: float = 3.0, release: str = "accuracy", **changes: Any) -> Statement:
    """The statement of a site that releases metrics."""
    part = {"release": release, "noise_multiplier": sigma, "evaluations": 4}
    return claimless(**({"released": ("update", release), "evaluation": part, "train_fraction": 0.8} | changes))


def evaluated(**tables: dict[str, Any]) -> Any:
    """A plan that asks for metrics after every second round."""
    tables["training"] = {"train_fraction": 0.8, "rounds": 5} | tables.get("training", {})
    tables["evaluation"] = {"release": "accuracy", "every": 2} | tables.get("evaluation", {})
    return plan(**tables)


def _site(name: str, sigma: float = 3.0, **more: Any) -> Site:
    return Site(name, **({"statement": releasing(sigma)} | more))


def _asked(site: Site) -> list[tuple[int, int]]:
    return [(r.body.round, r.body.after) for r in site.heard if isinstance(r.body, EvaluateBody)]


# When


@pytest.mark.parametrize(
    ("rounds", "every", "asked"),
    [
        (5, 2, [(1, 2), (2, 4), (3, 5)]),
        (4, 2, [(1, 2), (2, 4)]),
        (3, 5, [(1, 3)]),
        (2, 1, [(1, 1), (2, 2)]),
    ],
)
def test_sites_are_asked_after_every_so_many_rounds_and_after_the_last(
    monkeypatch: pytest.MonkeyPatch, rounds: int, every: int, asked: list[tuple[int, int]]
) -> None:
    the_plan = evaluated(training={"rounds": rounds}, evaluation={"every": every})
    sites = [_site("north"), _site("south")]
    ran = scene(monkeypatch, sites, the_plan).run()
    assert _asked(sites[0]) == _asked(sites[1]) == asked
    assert len(asked) == the_plan.num_evaluations
    told = {row["round"]: row["evaluation"]["number"] for row in ran.rounds() if row["evaluation"]}
    assert told == {after: number for number, after in asked}
    assert ran.strategy.history == ran.rounds()
    json.dumps(ran.events)


def test_rounds_that_found_no_quorum_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(site: Site, message: Message, request: Request) -> list[Message]:
        assert isinstance(request.body, TrainBody)
        return silent(site, message, request) if request.body.round in (2, 3) else sound(site, message, request)

    sites = [_site("north", train=lost), _site("south")]
    scene(monkeypatch, sites, evaluated(training={"rounds": 3, "spare_rounds": 2})).run()
    assert _asked(sites[1]) == [(1, 4), (2, 5)]


@pytest.mark.parametrize("rounds", range(1, 12))
@pytest.mark.parametrize("every", [1, 2, 3, 5, 20])
def test_no_evaluation_has_anothers_number_and_none_is_beyond_the_plan(rounds: int, every: int) -> None:
    the_plan = evaluated(training={"rounds": rounds}, evaluation={"every": every})
    for stop in range(1, rounds + 1):  # a run may end early, after any round
        numbers = [evaluation_number(the_plan, done, last=done == stop) for done in range(1, stop + 1)]
        given = [number for number in numbers if number is not None]
        assert given == list(range(1, len(given) + 1))
        assert len(given) <= the_plan.num_evaluations
        assert numbers[-1] is not None
    assert evaluation_number(the_plan, 0, last=True) is None
    assert evaluation_number(plan(), 2, last=True) is None


def test_the_arrays_are_those_of_the_next_round(monkeypatch: pytest.MonkeyPatch) -> None:
    sites = [_site("north"), _site("south")]
    scene(monkeypatch, sites, evaluated()).run()
    heard = [(r.body.kind, getattr(r.body, "round", 0), digest(r.arrays)) for r in sites[0].heard]
    after_two = next(arrays for kind, number, arrays in heard if (kind, number) == ("evaluate", 1))
    assert after_two == next(arrays for kind, number, arrays in heard if (kind, number) == ("train", 3))


# Whom


@pytest.mark.parametrize(
    "statement",
    [
        claimless(),
        claimless(released=("update", "accuracy")),
        releasing(release="confusion"),
        releasing(released=("update",)),
        releasing(
            released=("accuracy",), evaluation={"release": "per_class", "noise_multiplier": 1.0, "evaluations": 4}
        ),
    ],
)
def test_who_does_not_state_that_release_and_its_noise_is_not_asked(
    monkeypatch: pytest.MonkeyPatch, statement: Statement
) -> None:
    sites = [_site("north", statement=statement), _site("south")]
    ran = scene(monkeypatch, sites, evaluated()).run()
    assert _asked(sites[0]) == []
    assert [row["evaluation"]["answered"] for row in ran.rounds() if row["evaluation"]] == [["south"]] * 3
    assert all(row["answered"] == ["north", "south"] for row in ran.rounds())  # it trains all the same


def test_where_nobody_releases_metrics_the_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    sites = [Site("north"), Site("south")]
    the_plan = evaluated(evaluation={"metric": "sites", "keep": "best", "patience": 1})
    ran = scene(monkeypatch, sites, the_plan).run()
    assert [row["sites"] for row in ran.rounds()] == [None] * 5
    assert ran.rounds()[1]["evaluation"] == {"number": 1, "answered": [], "missing": [], "failed": {}, "left_out": []}
    assert ran.strategy.completed == 5
    assert ran.grid.timeouts == [600.0] * 5 + [15.0]  # nobody is waited for


def test_also_sites_outside_the_cohort_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    sites = [_site(name) for name in "abcd"]
    ran = scene(monkeypatch, sites, evaluated(cohort={"fraction": 0.5})).run()
    assert [len(row["cohort"]) for row in ran.rounds()] == [2] * 5
    assert ran.rounds()[1]["evaluation"]["answered"] == list("abcd")


# What


def test_cells_are_summed_over_sites_and_variances_too(monkeypatch: pytest.MonkeyPatch) -> None:
    sites = [
        _site("north", 3.0, counts=lambda after: np.array([80.0, 20.0], np.float32)),
        _site("south", 4.0, counts=lambda after: np.array([30.5, 9.0], np.float32)),
    ]
    ran = scene(monkeypatch, sites, evaluated()).run()
    expected = noised_metrics("accuracy", np.array([110.5, 29.0]), 25.0, ("p", "q", "r")).to_json()
    row = ran.rounds()[1]
    assert row["sites"] == expected
    assert row["evaluation"] == {
        "number": 1,
        "answered": ["north", "south"],
        "missing": [],
        "failed": {},
        "left_out": [],
    }
    assert row["bytes_up"] - ran.rounds()[0]["bytes_up"] == 2 * 2 * 4
    assert row["bytes_down"] == 2 * ran.rounds()[0]["bytes_down"]
    assert row["public"] is None


def test_the_noise_of_who_did_not_answer_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    sites = [_site("north", 4.0), _site("south", 1000.0, evaluate=silent)]
    row = scene(monkeypatch, sites, evaluated()).run().rounds()[1]
    assert row["sites"] == noised_metrics("accuracy", np.array([80.0, 20.0]), 16.0, ("p", "q", "r")).to_json()
    assert row["evaluation"]["missing"] == ["south"]


# Bad replies


def _bad(make: Callable[[str, int], RecordDict | Error]) -> Callable[..., list[Message]]:
    def answer(site: Site, message: Message, request: Request) -> list[Message]:
        assert isinstance(request.body, EvaluateBody)
        return [reply_to(message, make(request.body.plan_digest, request.body.round))]

    return answer


def _arrays(**arrays: Any) -> Callable[..., list[Message]]:
    return _bad(lambda d, n: record(d, n, {k: np.asarray(v, np.float32) for k, v in arrays.items()}))


BAD: dict[str, tuple[Callable[..., list[Message]], str]] = {
    "no record": (_bad(lambda d, n: RecordDict()), "unavailable"),
    "exact metrics": (_bad(lambda d, n: RecordDict({"metrics": MetricRecord({"accuracy": 0.9})})), "unavailable"),
    "an error of Flower's": (_bad(lambda d, n: Error(1, "x")), "unavailable"),
    "another number": (_bad(lambda d, n: record(d, n + 1, {COUNTS: np.ones(2, np.float32)})), "unavailable"),
    "another plan": (_bad(lambda d, n: record("ab" * 32, n, {COUNTS: np.ones(2, np.float32)})), "unavailable"),
    "no array": (_arrays(), "bad_request"),
    "another name": (_arrays(cells=[1.0, 2.0]), "bad_request"),
    "an array more": (_arrays(counts=[1.0, 2.0], more=[1.0]), "bad_request"),
    "a cell more": (_arrays(counts=[1.0, 2.0, 3.0]), "bad_request"),
    "a cell less": (_arrays(counts=[1.0]), "bad_request"),
    "another shape": (_arrays(counts=[[1.0, 2.0]]), "bad_request"),
    "NaN": (_arrays(counts=[np.nan, 2.0]), "bad_request"),
    "infinite": (_arrays(counts=[1.0, np.inf]), "bad_request"),
    "beyond bounds": (_arrays(counts=[1e30, 2.0]), "bad_request"),
    "lost": (coded(Code.ROUND_LOST), "round_lost"),
    "refused": (coded(Code.REFUSED_POLICY), "refused_policy"),
    "behind": (coded(Code.LEDGER_BEHIND), "ledger_behind"),
}


@pytest.mark.parametrize("fault", BAD)
def test_one_bad_reply_never_ends_a_run(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    answer, code = BAD[fault]
    sites = [_site("north", evaluate=answer), _site("south")]
    ran = scene(monkeypatch, sites, evaluated()).run()
    alone = noised_metrics("accuracy", np.array([80.0, 20.0]), 9.0, ("p", "q", "r")).to_json()
    for row in (row for row in ran.rounds() if row["evaluation"]):
        assert row["evaluation"]["failed"] == {"north": code}
        assert row["sites"] == alone
    assert all(row["answered"] == ["north", "south"] for row in ran.rounds())  # and it is not shut out from training
    assert ran.strategy.completed == 5


def test_no_sound_reply_at_all_never_ends_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    sites = [_site(name, evaluate=silent) for name in ("north", "south")]
    ran = scene(monkeypatch, sites, evaluated(evaluation={"metric": "sites", "keep": "best"})).run()
    assert ran.strategy.completed == 5
    assert [row["sites"] for row in ran.rounds()] == [None] * 5
    assert ran.rounds()[4]["evaluation"]["missing"] == ["north", "south"]


@pytest.mark.parametrize("node", [12, 99])
def test_nobody_answers_for_another(monkeypatch: pytest.MonkeyPatch, node: int) -> None:
    """12 is south, 99 nobody; north's forgery comes before south's own reply or after it."""

    def forged(site: Site, message: Message, request: Request) -> list[Message]:
        assert isinstance(request.body, EvaluateBody)
        lie = record(request.body.plan_digest, request.body.round, {COUNTS: np.array([0, 1e6], np.float32)})
        return [from_node(message, lie, node)]

    sites = [_site("north", evaluate=forged), _site("south")]
    row = scene(monkeypatch, sites, evaluated()).run().rounds()[1]
    assert row["evaluation"] == {"number": 1, "answered": ["south"], "missing": ["north"], "failed": {}, "left_out": []}
    assert row["sites"]["accuracy"] == pytest.approx(0.8)


def test_of_several_replies_of_one_site_the_first_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def twice(site: Site, message: Message, request: Request) -> list[Message]:
        assert isinstance(request.body, EvaluateBody)
        more = record(request.body.plan_digest, request.body.round, {COUNTS: np.array([0, 1e6], np.float32)})
        return [*sound(site, message, request), reply_to(message, more), reply_to(message, RecordDict())]

    sites = [_site("north", evaluate=twice), _site("south")]
    row = scene(monkeypatch, sites, evaluated()).run().rounds()[1]
    assert row["evaluation"]["failed"] == {}
    assert row["sites"]["num_units"] == 200


@pytest.mark.parametrize("sigma", [0.0, 1e-300, 1e6])
def test_a_hostile_statement_of_noise_ends_nothing(monkeypatch: pytest.MonkeyPatch, sigma: float) -> None:
    loose = releasing(sigma, epsilon=None, epsilon_replace=None)
    sites = [_site("north", statement=loose), _site("south")]
    ran = scene(monkeypatch, sites, evaluated(evaluation={"metric": "sites", "keep": "best", "patience": 1})).run()
    json.dumps(ran.events, allow_nan=False)
    assert ran.rounds()


# What a site's own statement allows


def _counting(*counts: float) -> Callable[[int], Any]:
    return lambda after: np.array(counts, np.float32)


@pytest.mark.parametrize(
    ("sigma", "counts"),
    [
        (3.0, (2.0**31, 0.0)),  # more than anybody has
        (3.0, (700.0, 0.0)),  # more than 2 x 250 + 6 √250 + 6 x 3 √2
        (3.0, (350.0, 350.0)),
        (3.0, (20.0, -60.0)),  # less than none
        (3.0, (1e9, -1e9)),  # nothing in total, and an accuracy of one
        (3.0, (100.0, -30.0)),
        (0.0, (600.0, 0.0)),
        (0.0, (10.0, -1.0)),
    ],
)
def test_counts_beyond_what_the_site_stated_are_refused(
    monkeypatch: pytest.MonkeyPatch, sigma: float, counts: tuple[float, ...]
) -> None:
    """Its statement implies 64 / (0.064 x 0.8) x 0.2 = 250 validation units."""
    loose = releasing(sigma, epsilon=None, epsilon_replace=None)
    sites = [_site("north", statement=loose, counts=_counting(*counts)), _site("south")]
    row = scene(monkeypatch, sites, evaluated()).run().rounds()[1]
    assert row["evaluation"]["failed"] == {"north": "bad_request"}
    assert row["sites"] == noised_metrics("accuracy", np.array([80.0, 20.0]), 9.0, ("p", "q", "r")).to_json()


@pytest.mark.parametrize("counts", [(500.0, 0.0), (0.0, 0.0), (-12.0, -12.0), (260.0, 240.0), (510.0, -8.0)])
def test_counts_within_what_the_site_stated_are_taken(
    monkeypatch: pytest.MonkeyPatch, counts: tuple[float, ...]
) -> None:
    sites = [_site("north", counts=_counting(*counts)), _site("south")]
    row = scene(monkeypatch, sites, evaluated()).run().rounds()[1]
    assert row["evaluation"]["answered"] == ["north", "south"]
    assert row["evaluation"]["failed"] == {}


@given(
    st.floats(0.0, 1e6),
    st.integers(1, 10**6),
    st.floats(0.1, 2.0),
    st.sampled_from([2, 6, 9, 400]),
    st.integers(0, 2**32),
)
def test_an_honest_site_is_never_refused(sigma: float, units: int, off: float, cells: int, seed: int) -> None:
    """Whatever its noise and however its units fall into cells, had it declared as few as half of them."""
    random = np.random.default_rng(seed)
    true = random.multinomial(min(round(off * units), 2 * units), random.dirichlet(np.full(cells, 0.3)))
    counts = (true + sigma * random.normal(size=cells)).astype(np.float32)
    assert Stated(sigma, float(units)).allows(counts)


def test_the_units_that_a_statement_implies() -> None:
    assert stated(releasing(3.0)).noise_multiplier == 3.0
    assert stated(releasing(3.0)).units == pytest.approx(250.0)
    assert stated(releasing(3.0, sample_rate=5e-324)).units == 2.0**31
    with pytest.raises(ValueError, match="evaluation"):
        stated(claimless())


# Who is left out


@pytest.mark.parametrize("counts", [(80.0, 20.0), (3e5, -2e5), (0.0, 0.0)])
def test_a_site_with_hopeless_noise_silences_nobody(monkeypatch: pytest.MonkeyPatch, counts: tuple[float, ...]) -> None:
    """The others' accuracy is still judged, and the choice is the same whatever the site sends."""
    sites = [_site("north", 1e6, counts=_counting(*counts)), _site("south"), _site("west")]
    best = {"metric": "sites", "keep": "best", "patience": 1}
    ran = scene(monkeypatch, sites, evaluated(training={"rounds": 9}, evaluation=best)).run()
    row = ran.rounds()[1]
    assert row["evaluation"]["left_out"] == ["north"]
    assert row["evaluation"]["answered"] == ["north", "south", "west"]
    assert row["sites"] == noised_metrics("accuracy", np.array([160.0, 40.0]), 18.0, ("p", "q", "r")).to_json()
    assert ran.strategy.completed == 4  # no gain: patience ends it
    assert ran.strategy.judge.standing.best is not None


def test_of_sites_that_are_all_hopeless_one_is_left() -> None:
    assert pool({"a": Stated(1e6, 10.0), "b": Stated(2e6, 10.0)}, evaluated()) == ["a"]
    assert pool({}, evaluated()) == []


def test_a_small_site_without_noise_shuts_nobody_out() -> None:
    sites = {"tiny": Stated(0.0, 10.0), "north": Stated(3.0, 250.0), "south": Stated(5.0, 300.0)}
    assert pool(sites, evaluated()) == ["north", "south", "tiny"]


some = st.builds(Stated, st.floats(0.0, 1e6), st.floats(0.01, 1e6))


def _predicted(sites: list[Stated]) -> float:
    units = max(1, round(math.fsum(site.units for site in sites)))
    variance = math.fsum(site.noise_multiplier**2 for site in sites)
    return math.hypot(math.sqrt(variance) / units, 0.5 / math.sqrt(units))


@given(st.dictionaries(st.sampled_from("abcdefgh"), some, min_size=1), st.randoms())
def test_pooling_never_predicts_worse_than_any_site_or_all(sites: dict[str, Stated], random: Any) -> None:
    taken = pool(sites, evaluated())
    error = _predicted([sites[name] for name in taken]) * (1 - 1e-9)
    assert error <= _predicted(list(sites.values()))
    quietest = min(sites.values(), key=lambda site: site.noise_multiplier / max(site.units, 1.0))
    assert error <= _predicted([quietest])
    shuffled = list(sites.items())
    random.shuffle(shuffled)
    assert pool(dict(shuffled), evaluated()) == taken == sorted(taken)


@given(st.floats(0.5, 30.0), st.floats(30.0, 1e4), st.integers(1, 8))
def test_equal_sites_are_all_taken(sigma: float, units: float, count: int) -> None:
    assert len(pool({str(index): Stated(sigma, units) for index in range(count)}, evaluated())) == count
