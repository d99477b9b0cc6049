"""What the messages of a simulation cost: offers, rounds and the end of N virtual sites whose work is nothing."""

import time
import tracemalloc
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privet.common.adapter import AdapterSpec, Arrays, Entry, Floats, Role
from privet.common.config import Plan, SimulationSpec
from privet.common.initial import initial_adapter
from privet.server.strategy import PrivetStrategy
from privet.simulations.absence import Absence
from privet.simulations.engines.engine import InProcess
from privet.simulations.engines.store import Part, Store
from privet.simulations.engines.work import Recipe, Run
from privet.simulations.grid import SimulationGrid
from privet.simulations.terms import agree

_WIDTH, _RANK, _LAYERS = 128, 8, 2  # of the tiny BERT that is simulated elsewhere
_LABELS = 77


class NullWork:
    """A `Work` whose updates, cells, logits and features are zero."""

    words = "nothing"
    state_bytes = 0

    def __init__(self, spec: AdapterSpec) -> None:
        self.spec = spec

    def begin(self, run: Run) -> None:
        pass

    def hold(self, arrays: Arrays) -> None:
        pass

    def train(self, round: int, sites: Sequence[int], start: Floats) -> Floats:
        return np.zeros((len(sites), start.shape[-1]), np.float32)

    def cells(self, number: int, sites: Sequence[int], arrays: Floats) -> NDArray[np.float64]:
        return np.zeros((len(sites), 2))

    def logits(self, arrays: Floats, records: range) -> Floats:
        return np.zeros((len(records), _LABELS), np.float32)

    def features(self, windows: range) -> Floats:
        return np.zeros((len(windows), _WIDTH), np.float32)

    def states(self, windows: range) -> Floats:
        raise NotImplementedError


def bench_messages(
    num_sites: int = 10_000, fraction: float = 0.1, rounds: int = 5, *, traced: bool = False
) -> dict[str, Any]:
    """Seconds of process time in all, and milliseconds for each offer and end (of N), and for each site of a round.

    fraction: of the sites that a round asks. traced: also the most bytes that Python held at once, for each site and
    for each site of a cohort's updates; slower.
    """
    plan, spec = _plan(fraction, rounds), _spec()
    agreed = agree(
        plan, SimulationSpec(), [100] * num_sites, 8.0, by_record=True, call=lambda f, kinds: [*map(f, kinds)]
    )
    engine = InProcess()
    engine.start(Recipe(plan, None, make=lambda _recipe, _store: NullWork(spec)), _store())
    if traced:
        tracemalloc.start()
    names = [f"site-{index:05d}" for index in range(num_sites)]
    marks = [("start", time.process_time())]

    def listen(event: dict[str, object]) -> None:
        if event["event"] in ("round_started", "round"):
            marks.append((str(event["event"]), time.process_time()))

    initial = initial_adapter(spec, 0)
    grid = SimulationGrid(
        plan, spec, initial, engine, names, np.arange(num_sites), np.full(num_sites, 64.0), agreed, Absence(0)
    )
    try:
        strategy = PrivetStrategy(
            plan, spec, initial, name_of=grid.name_of, pause=lambda _: None, wait=0.0, on_event=listen
        )
        strategy.start(grid)
        end = time.process_time()
        most = tracemalloc.get_traced_memory()[1] if traced else 0
    finally:
        if traced:
            tracemalloc.stop()
    cohort = max(plan.cohort.min_sites, round(fraction * num_sites))
    begun = [at for name, at in marks if name == "round_started"]
    done = [at for name, at in marks if name == "round"]
    in_rounds = done[-1] - begun[0]
    found = {
        "num_sites": num_sites,
        "cohort": cohort,
        "rounds": rounds,
        "values": spec.size,
        "seconds": end - marks[0][1],
        "offer_ms": 1e3 * (begun[0] - marks[0][1]) / num_sites,
        "round_ms": 1e3 * in_rounds / (cohort * rounds),
        "end_ms": 1e3 * (end - done[-1]) / num_sites,
    }
    found["site_ms"] = found["offer_ms"] + found["round_ms"] + found["end_ms"]
    if traced:
        updates = 4 * spec.size * cohort
        found |= {"most_bytes": most, "update_bytes": updates, "bytes_per_site": (most - updates) / num_sites}
    return found


def _plan(fraction: float, rounds: int) -> Plan:
    return Plan.model_validate(
        {
            "format": 1,
            "name": "messages",
            "task": {"labels": [f"label {index}" for index in range(_LABELS)]},
            "model": {"base": "none", "sha256": "0" * 64},
            "method": {"kind": "fedavg"},
            "training": {"rounds": rounds, "expected_batch": 8, "local_steps": 4, "learning_rate": 0.01},
            "cohort": {"fraction": fraction, "min_sites": 1},
        }
    )


def _spec() -> AdapterSpec:
    """As a tiny BERT's: factors of query and value in each layer, and the head."""
    entries = [Entry("head.bias", (_LABELS,), Role.HEAD), Entry("head.weight", (_LABELS, _WIDTH), Role.HEAD)]
    for layer in range(_LAYERS):
        for target in ("query", "value"):
            name = f"encoder.layer.{layer}.attention.self.{target}"
            entries.append(Entry(f"{name}.lora_A.weight", (_RANK, _WIDTH), Role.LORA_A))
            entries.append(Entry(f"{name}.lora_B.weight", (_WIDTH, _RANK), Role.LORA_B))
    return AdapterSpec(tuple(sorted(entries, key=lambda entry: entry.name)))


def _store() -> Store:
    """Of nobody."""
    nothing, none = np.zeros(1, np.int64), np.zeros(0, np.int32)
    part = Part(none, none, nothing, none)
    return Store(none, nothing, nothing, none, part, part, np.zeros(0, "S1"), 0, 0)
