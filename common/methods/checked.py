"""What a method of another distribution gives back, held against what privet relies on.

The privacy of a site does not rest on this: whatever such a method sees is noised. It keeps a fault in it from turning
into a model that nobody can explain, one virtual site from learning of another, and the two sides from drifting apart.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from privet.common.adapter import MAX_WEIGHT, AdapterSpec, Arrays, Floats, Role
from privet.common.errors import RunError
from privet.common.methods.base import Method, State, Update, Values

_CALLED = ("trainable", "frozen_features", "init", "broadcast", "aggregate")


class Checked:
    """A method whose every result is checked; a fault in it is a RunError that names its distribution.

    Making one also tries `local_gradient` out, on made-up numbers of several sites.
    Raises: TypeError where `inner` is no method; RunError.
    """

    def __init__(self, inner: Method, kind: str, provider: str) -> None:
        for name in _CALLED:
            if not callable(getattr(inner, name, None)):
                raise TypeError(f"expected a method with {name}(), got a {type(inner).__name__}")
        self._inner, self.kind, self._provider = inner, kind, provider
        self._try_out()

    def trainable(self, spec: AdapterSpec, round: int) -> AdapterSpec:
        found = self._call("trainable", spec, round)
        if not isinstance(found, AdapterSpec) or not found.entries or found != spec.only(found.names):
            self._fail("trainable", "gave no part of the adapter, in its order")
        if self.frozen_features(spec) and any(entry.role is not Role.HEAD for entry in found.entries):
            self._fail("trainable", f"gave more than the last layer in round {round}, against frozen_features")
        return found

    def frozen_features(self, spec: AdapterSpec) -> bool:
        found = self._call("frozen_features", spec)
        if not isinstance(found, bool):
            self._fail("frozen_features", "gave neither True nor False")
        return found

    def init(self, initial: Arrays) -> State:
        """The adapter itself: its digest is what the sites agreed to start from."""
        found = self._state("init", self._call("init", {n: a.copy() for n, a in initial.items()}), initial)
        if not all(np.array_equal(found.arrays[name], array) for name, array in initial.items()):
            self._fail("init", "gave another adapter than the plan's")
        return found

    def broadcast(self, spec: AdapterSpec, state: State, round: int) -> dict[str, Floats]:
        """What every round sends is one set of arrays, and all that is ever trained is in it: a site derives the others
        from the plan, and no round may go on from what another left there."""
        found = self._call("broadcast", spec, state, round)
        names = set(found) if isinstance(found, dict) else set()
        if not names or not names <= set(spec.names):
            self._fail("broadcast", "gave no arrays of the adapter by name")
        if not set(self.trainable(spec, round).names) <= names:
            self._fail("broadcast", f"left out what round {round} trains")
        if round != 1 and set(self._call("broadcast", spec, state, 1)) != names:
            self._fail("broadcast", f"gave other names in round {round} than in the first")
        self._arrays("broadcast", found, {name: state.arrays[name] for name in names}, MAX_WEIGHT)
        return {name: found[name] for name in spec.names if name in names}

    def aggregate(self, spec: AdapterSpec, state: State, round: int, updates: Sequence[Update]) -> State:
        arrays, momentum = ({n: a.copy() for n, a in part.items()} for part in (state.arrays, state.momentum))
        given = State(arrays, momentum)  # the state before may be the best one, and is kept
        found = self._state("aggregate", self._call("aggregate", spec, given, round, updates), state.arrays)
        sent = self.broadcast(spec, found, round)
        for name, array in found.arrays.items():
            if name not in sent and not np.array_equal(array, state.arrays[name]):
                self._fail("aggregate", f"changed {name}, which no site is sent")
        return found

    def local_gradient(self, gradient: Values, weights: Values, start: Values) -> Values:
        if not hasattr(self._inner, "local_gradient"):
            return gradient
        found = self._call("local_gradient", gradient, weights, start)
        if type(found) is not type(gradient) or found.shape != gradient.shape or found.dtype != gradient.dtype:
            self._fail("local_gradient", "gave another shape or type than the gradient's")
        if not bool((abs(found) < math.inf).all()):
            self._fail("local_gradient", "gave a value that is not finite")
        return found

    def _try_out(self) -> None:
        """Raises: RunError where sites in one pass are not treated as each alone, or what is given is written to."""
        given = np.random.Generator(np.random.PCG64(0)).normal(size=(3, 4, 7)).astype(np.float32)
        given.setflags(write=False)
        together = self.local_gradient(*given)
        for site in range(given.shape[1]):
            alone = self.local_gradient(*given[:, site])
            if not np.allclose(together[site], alone, rtol=1e-5, atol=1e-6):
                self._fail("local_gradient", "gives a site another gradient where others are in the same pass")

    def _call(self, name: str, *given: Any) -> Any:
        try:
            return getattr(self._inner, name)(*given)
        except Exception as error:
            raise self._fault(name, f"failed with {type(error).__name__}: {error}") from error

    def _state(self, name: str, found: Any, like: Arrays) -> State:
        if not isinstance(found, State) or not isinstance(found.arrays, dict) or not isinstance(found.momentum, dict):
            self._fail(name, "gave no State")
        self._arrays(name, found.arrays, like, MAX_WEIGHT)
        for key, array in found.momentum.items():
            if not isinstance(array, np.ndarray) or array.dtype != np.float32 or not np.isfinite(array).all():
                self._fail(name, f"gave a momentum {key!r} that is not float32, or not finite")
        return found

    def _arrays(self, name: str, found: Mapping[str, Any], like: Arrays, bound: float) -> None:
        if set(found) != set(like):
            self._fail(name, "gave other arrays than the adapter's")
        for key, array in found.items():
            if not isinstance(array, np.ndarray) or array.dtype != np.float32 or array.shape != like[key].shape:
                self._fail(name, f"gave {key} not as float32 of shape {like[key].shape}")
            if not (np.abs(array) <= bound).all():
                self._fail(name, f"gave {key} with a value that is not finite, or beyond {bound:g}")

    def _fail(self, name: str, what: str) -> NoReturn:
        raise self._fault(name, what)

    def _fault(self, name: str, what: str) -> RunError:
        text = f"the method {self.kind} of {self._provider} is at fault: its {name} {what}."
        return RunError(text, mend="tell whoever wrote it, or choose another method.")
