"""The seam between the simulator and what computes for the sites.

A worker is built once: `recipe.make(recipe, store)` in its own process gives a `Work`. Each simulation then calls
`begin(run)` once, and for its rounds `train`, `cells` and `logits`, with any sites in any order. Sites are numbers in
the store (0 .. N - 1); vectors are float32 in the layout of an `AdapterSpec`:

    train         start and updates: the layout of the round's trainable arrays, method_for(plan).trainable(spec, round)
    cells, logits arrays: the layout of the whole adapter, `work.spec`

What a site gets is a function of (run.seed, site name, round or evaluation number, data, weights): not of the worker,
of how many there are, or of who is in the same call. Its noise is SeededNoise(run.seed, name, round).

A `make` is a module-level function (it is pickled by its name); it runs after OMP_NUM_THREADS=1 was set, in a process
that has imported neither peft nor opacus. `make_work` is the default; it chooses.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from privet.common.adapter import AdapterSpec, Arrays, Floats
from privet.common.config import Plan
from privet.common.errors import ConfigError
from privet.common.precision import AskedPrecision
from privet.common.privacy.events import TrainEvent
from privet.simulations.engines.store import Store

Device = Literal["cpu", "cuda", "auto"]
AskedEngine = Literal["auto", "opacus", "fused"]


@dataclass(frozen=True, eq=False)
class Run:
    """What one simulation sets for every site: its seed, and what each site's rounds are. Arrays are of all N sites.

    rates, noise_multipliers, batches: 0 where a site refuses the plan; it is never asked to train then.
    """

    seed: int
    unit: Literal["record", "unit"]
    max_records: int
    rates: NDArray[np.float64]
    noise_multipliers: NDArray[np.float64]
    batches: NDArray[np.int64]

    def event(self, site: int, plan: Plan) -> TrainEvent:
        """One round at one site."""
        return TrainEvent(
            sample_rate=float(self.rates[site]),
            noise_multiplier=float(self.noise_multipliers[site]),
            steps=plan.training.local_steps,
            max_grad_norm=plan.training.max_grad_norm,
            expected_batch=int(self.batches[site]),
            unit=self.unit,
            max_records=self.max_records,
        )


class Work(Protocol):
    """What one worker does."""

    @property
    def spec(self) -> AdapterSpec:
        """The layout of the whole adapter."""

    @property
    def words(self) -> str:
        """How gradients are computed, for people: such as "opacus, one site after the other"."""

    @property
    def state_bytes(self) -> int:
        """Of a token's state below LoRA, where that is computed once for a text; 0: nothing is."""

    def begin(self, run: Run) -> None:
        """A simulation begins: nothing of an earlier one is left."""

    def hold(self, arrays: Arrays) -> None:
        """Set arrays that the coming round sends and does not train. Called only where a method sends any."""

    def train(self, round: int, sites: Sequence[int], start: Floats) -> Floats:
        """Updates float32 [K, P], row i of sites[i]. start: one for all [P], or one for each site [K, P]."""

    def cells(self, number: int, sites: Sequence[int], arrays: Floats) -> NDArray[np.float64]:
        """Exact cells float64 [K, cells] of the validation units, in evaluation `number`; `site_cells` says what may
        stand behind them."""

    def logits(self, arrays: Floats, records: range) -> Floats:
        """Of these public test records (0 is the first), float32 [len(records), L]."""

    def features(self, windows: range) -> Floats:
        """What the last layer reads of these windows of the store, float32 [len(windows), d], nan where it cannot be
        computed. Called, before all else, only where the method trains the last layer alone."""

    def states(self, windows: range) -> Floats:
        """What the first layer with LoRA reads of these windows' tokens, float32 [tokens, d], nan where it cannot be
        computed. Called, before all else, only where `state_bytes` is not 0 and all of them find room."""


Make = Callable[["Recipe", Store], Work]


@dataclass(frozen=True)
class Recipe:
    """All that a worker needs to build its `Work`, beside the store. Pickled: small.

    base: the folder of the checked base model; None: the worker finds and checks it (another machine).
    """

    plan: Plan
    base: Path | None
    device: Device = "auto"
    make: Make | None = None  # None: `make_work`
    engine: AskedEngine = "auto"  # of gradients
    precision: AskedPrecision = "auto"  # of the frozen base


def make_work(recipe: Recipe, store: Store) -> Work:
    """The fused engine where it computes this plan, else the agent's own trainer.

    Raises: ConfigError where the fused engine is asked for and does not.
    """
    from privet.client.fused import covers
    from privet.common.base import checked_base

    plan = recipe.plan
    base = recipe.base or checked_base(plan.model.base, plan.model.sha256)
    reason = "Opacus is asked for" if recipe.engine == "opacus" else covers(plan, base)
    if reason is None:
        from privet.simulations.engines.fused import FusedWork

        return FusedWork(recipe, store, base)
    if recipe.engine == "fused":
        raise ConfigError(
            f"the fused engine does not compute this plan: {reason}.",
            where="simulation.engine",
            mend='set "auto" or "opacus".',
        )
    from privet.simulations.engines.sequential import SequentialWork

    return SequentialWork(recipe, store, because=reason)
