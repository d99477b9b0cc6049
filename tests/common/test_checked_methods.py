"""What a method of another package gives is held against what privet relies on: one broken part at a time."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from privet.common.adapter import MAX_WEIGHT, AdapterSpec, Entry, Role, digest
from privet.common.errors import RunError
from privet.common.methods import ROLES, Averaging, Method, State, Update, adjustment
from privet.common.methods.checked import Checked

SPEC = AdapterSpec(
    (
        Entry("a", (2, 3), Role.LORA_A),
        Entry("b", (3, 2), Role.LORA_B),
        Entry("head", (2, 3), Role.HEAD),
        Entry("new", (3,), Role.NEW),
    )
)


def _arrays(seed: int, names: tuple[str, ...] = SPEC.names) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    return {e.name: random.normal(size=e.shape).astype(np.float32) for e in SPEC.entries if e.name in names}


class Sound(Averaging):
    """A method like FedAvg, of which a test breaks one part."""

    def __init__(self, roles: str = "fedavg", **broken: Callable[..., Any]) -> None:
        super().__init__("sound", ROLES[roles])
        for name, function in broken.items():
            object.__setattr__(self, name, function)


def checked(roles: str = "fedavg", **broken: Callable[..., Any]) -> Method:
    return Checked(Sound(roles, **broken), "sound", "privet-sound 1")


def _round(method: Method, round: int = 1) -> State:
    trained, state = method.trainable(SPEC, round).names, method.init(_arrays(0))
    method.broadcast(SPEC, state, round)
    return method.aggregate(SPEC, state, round, [Update(_arrays(1, trained), 1.0)])


def test_a_sound_one_is_let_through_unchanged() -> None:
    plain, wrapped = Averaging("fedavg", ROLES["fedavg"]), checked()
    for round in (1, 2):
        assert digest(_round(wrapped, round).arrays) == digest(_round(plain, round).arrays)
    assert wrapped.trainable(SPEC, 1) == plain.trainable(SPEC, 1)
    assert not wrapped.frozen_features(SPEC)


def _state(change: Callable[[dict[str, Any]], object], momentum: Any = None) -> Callable[..., State]:
    def made(*given: Any) -> State:
        arrays = {name: array.copy() for name, array in _arrays(0).items()}
        change(arrays)
        return State(arrays, momentum or {})

    return made


def _set(name: str, value: Any) -> Callable[[dict[str, Any]], object]:
    return lambda arrays: arrays.__setitem__(name, value)


def _fill(name: str, value: float) -> Callable[[dict[str, Any]], object]:
    return lambda arrays: arrays[name].__setitem__(..., value)


FAULTS: list[tuple[str, str, Callable[..., Any], str]] = [
    ("nan", "aggregate", _state(_fill("head", np.nan)), "not finite"),
    ("infinity", "aggregate", _state(_fill("b", np.inf)), "not finite"),
    ("too large", "aggregate", _state(_fill("b", 2 * MAX_WEIGHT)), "beyond"),
    ("shape", "aggregate", _state(_set("head", np.zeros((3, 2), np.float32))), "shape"),
    ("float64", "aggregate", _state(_set("head", np.zeros((2, 3)))), "float32"),
    ("a list", "aggregate", _state(_set("head", [[0.0] * 3] * 2)), "float32"),
    ("one missing", "aggregate", _state(lambda arrays: arrays.pop("a")), "other arrays"),
    ("one more", "aggregate", _state(_set("else", np.zeros(1, np.float32))), "other arrays"),
    ("momentum", "aggregate", _state(len, {"head": np.full((2, 3), np.nan, np.float32)}), "momentum"),
    ("no state", "aggregate", lambda *_: _arrays(0), "no State"),
    ("a crash", "aggregate", lambda *_: _arrays(0)["secret"], "KeyError"),
    ("another start", "init", _state(_fill("b", 1.0)), "another adapter"),
    ("nothing sent", "broadcast", lambda *_: {}, "no arrays"),
    ("a stranger sent", "broadcast", lambda *_: _arrays(0) | {"else": np.zeros(1, np.float32)}, "no arrays"),
    ("too little sent", "broadcast", lambda *_: _arrays(0, ("a", "b")), "left out"),
    ("nan sent", "broadcast", lambda *_: _arrays(0) | {"new": np.full(3, np.nan, np.float32)}, "not finite"),
    ("no spec", "trainable", lambda *_: ["head"], "no part"),
    ("nothing trained", "trainable", lambda *_: AdapterSpec(()), "no part"),
    ("another order", "trainable", lambda *_: AdapterSpec(tuple(reversed(SPEC.entries))), "no part"),
    ("a stranger trained", "trainable", lambda *_: AdapterSpec((Entry("a", (9,), Role.HEAD),)), "no part"),
    ("features not frozen", "frozen_features", lambda *_: True, "more than the last layer"),
    ("neither", "frozen_features", lambda *_: "head", "neither True nor False"),
]


@pytest.mark.parametrize(("part", "broken", "what"), [fault[1:] for fault in FAULTS], ids=[f[0] for f in FAULTS])
def test_a_fault_at_the_server_ends_the_run_and_names_its_maker(
    part: str, broken: Callable[..., Any], what: str
) -> None:
    with pytest.raises(RunError) as caught:
        _round(checked("fedavg", **{part: broken}))
    assert what in caught.value.what
    assert "sound of privet-sound 1" in caught.value.what
    assert f"its {part if part != 'frozen_features' or what[0] == 'n' else 'trainable'} " in caught.value.what


def test_no_round_sends_other_arrays_than_the_first() -> None:
    """Else a site that missed a round would go on from other weights than the rest."""

    def broadcast(spec: AdapterSpec, state: State, round: int) -> dict[str, Any]:
        return {name: state.arrays[name] for name in (spec.names if round < 3 else ("b", "head", "new"))}

    method = checked("ffa", broadcast=broadcast)
    _round(method, 2)
    with pytest.raises(RunError, match="other names in round 3"):
        _round(method, 3)


def test_what_is_not_sent_stays_as_the_plan_derives_it() -> None:
    with pytest.raises(RunError, match="changed a, which no site is sent"):
        _round(checked("ffa", aggregate=_state(_fill("a", 0.5))))


def test_a_method_may_train_parts_in_turn() -> None:
    def trainable(spec: AdapterSpec, round: int) -> AdapterSpec:
        return spec.only(("a", "head") if round % 2 else ("b", "head"))

    def broadcast(spec: AdapterSpec, state: State, round: int) -> dict[str, Any]:
        return dict(state.arrays)

    def aggregate(spec: AdapterSpec, state: State, round: int, updates: Any) -> State:
        trained = trainable(spec, round).names
        return State({n: a + (updates[0].arrays[n] if n in trained else 0) for n, a in state.arrays.items()})

    method = checked(trainable=trainable, broadcast=broadcast, aggregate=aggregate)
    odd, even = _round(method, 1), _round(method, 2)
    assert np.array_equal(odd.arrays["b"], _arrays(0)["b"])
    assert np.array_equal(even.arrays["a"], _arrays(0)["a"])


def test_the_state_before_a_round_cannot_be_written_to() -> None:
    """It may be the best round's, which the run ends with."""

    def aggregate(spec: AdapterSpec, state: State, round: int, updates: Any) -> State:
        state.arrays["head"] += 1
        return state

    method = checked(aggregate=aggregate)
    state = method.init(_arrays(0))
    after = method.aggregate(SPEC, state, 1, [])
    assert np.array_equal(state.arrays["head"], _arrays(0)["head"])
    assert np.array_equal(after.arrays["head"], _arrays(0)["head"] + 1)


def _in_place(gradient: Any, weights: Any, start: Any) -> Any:
    start += 1
    return gradient


@pytest.mark.parametrize(
    ("hook", "what"),
    [
        (lambda g, w, s: g / np.linalg.norm(g), "other"),  # over all sites
        (lambda g, w, s: g - g.mean(axis=0), "other"),
        (lambda g, w, s: g.sum(), "another shape"),
        (lambda g, w, s: g[..., :-1], "another shape"),
        (lambda g, w, s: g.astype(np.float64), "another shape or type"),
        (lambda g, w, s: g.tolist(), "another shape or type"),
        (lambda g, w, s: g / (g - g), "not finite"),
        (lambda g, w, s: g * np.float32("inf"), "not finite"),
        (_in_place, "failed with ValueError"),
    ],
    ids=["norm over sites", "mean over sites", "sum", "short", "float64", "list", "nan", "infinity", "in place"],
)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning", "ignore:divide by zero:RuntimeWarning")
def test_a_hook_at_fault_is_found_before_it_is_used(hook: Callable[..., Any], what: str) -> None:
    with pytest.raises(RunError) as caught:
        checked(local_gradient=hook)
    assert what in caught.value.what


def test_a_hook_may_normalise_each_site_on_its_own() -> None:
    method = checked(local_gradient=lambda g, w, s: g / (1 + (g * g).sum(-1, keepdims=True) ** 0.5))
    assert adjustment(method) is not None


def test_a_hook_that_fails_on_numbers_to_come_is_stopped_there() -> None:
    """It tries out well, and overflows later: the result never reaches the weights."""
    hook = checked(local_gradient=lambda g, w, s: g * w * w).local_gradient
    large = np.full(3, 1e30, np.float32)
    with np.errstate(over="ignore"), pytest.raises(RunError, match="not finite"):
        hook(large, large, large)
    with pytest.raises(RunError, match="not finite"):
        hook(*[torch.tensor(large)] * 3)


def test_a_method_without_the_hook_leaves_gradients_alone() -> None:
    class Bare:
        kind = "bare"
        trainable = frozen_features = init = broadcast = aggregate = staticmethod(lambda *_: None)

    bare: Any = Bare()
    gradient = np.ones(3, np.float32)
    assert Checked(bare, "bare", "bare 1").local_gradient(gradient, gradient, gradient) is gradient


def test_privets_own_have_no_hook() -> None:
    """So that nothing is computed for it at each step."""
    assert all(adjustment(Averaging(kind, ROLES[kind])) is None for kind in ROLES)
