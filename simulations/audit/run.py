"""`audit`: attacks on a plan's real trainer at one virtual site, each beside what the accountant claims."""

import math
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np

from privet.client.training import LabelledTexts
from privet.common.adapter import Arrays
from privet.common.base import checked_base
from privet.common.config import Federation, Plan, ServerSpec, SimulationSpec
from privet.common.errors import ConfigError
from privet.common.examples import Examples
from privet.common.model import initial_arrays
from privet.common.privacy.accountant import epsilon as composed_epsilon
from privet.common.privacy.calibration import noise_multiplier
from privet.common.privacy.events import TrainEvent
from privet.common.privacy.noise import SeededNoise
from privet.server.start import load_start
from privet.simulations.audit import black_box, membership, white_box
from privet.simulations.audit.bound import cap, lower_bound
from privet.simulations.audit.canaries import coordinates
from privet.simulations.audit.findings import ATTACKS, Arm, Attack, Audit, CoinFinding, RocFinding
from privet.simulations.audit.guesses import Coins, Guesses, Scores, settle
from privet.simulations.audit.horizon import run_horizon
from privet.simulations.audit.views import Chosen
from privet.simulations.audit.white_box import AuditedTrainer
from privet.simulations.data import Records, SimulationData, load_data

FEWEST_CANARIES = 20
Tell = Callable[[str], None]


def audit(
    plan: Plan,
    data: SimulationData | None = None,
    *,
    sites: int = 3,
    epsilon: Sequence[float] = (1.0, 2.0, 4.0),
    canaries: int = 1000,
    attacks: Sequence[Attack] = ATTACKS,
    spec: SimulationSpec | None = None,
    tell: Tell | None = None,
    command: str = "",
    init: Path | None = None,
    init_labels: Mapping[str, str] | None = None,
) -> Audit:
    """Audit `plan` at the first of `sites` virtual sites: its own batch, steps and horizon.

    plan: a Plan, or a Federation, whose [simulation] table is then the default of `spec`. data: None reads what `spec`
    says, or generates text. epsilon: what the site grants, each in a training of its own; one more, without noise,
    shows what each attack sees. canaries: of the attacks "unit" and "text". tell: takes a line of progress.
    init, init_labels: as in `simulate`, where the plan starts from a trained adapter.
    Raises: ConfigError, DataError, ModelError; InputError where the plan trains fewer parameters than `canaries`;
    RunError where the trainer did not run the steps of its events.
    """
    started = time.monotonic()
    if spec is None:
        spec = plan.simulation if isinstance(plan, Federation) else SimulationSpec()
    server = plan.server if isinstance(plan, Federation) else ServerSpec()
    if isinstance(plan, Federation):
        plan = plan.plan
    if init is not None:
        server = ServerSpec(init=init, init_labels=dict(init_labels or {}))
    _check(epsilon, canaries, attacks)
    if data is None:
        data = load_data(spec, plan.task)
    shares = data.sites(spec.partition, plan.task, num_sites=sites, seed=spec.seed)
    site, records = next(iter(shares.items()))
    session = _Session(
        plan, records, spec, server, by_record=data.by_record, canaries=canaries, attacks=attacks, tell=tell
    )
    if "unit" in attacks:
        session.check_canaries()
    arms = [session.arm(value) for value in epsilon]
    silent = session.arm(None)
    coins: list[CoinFinding] = []
    rocs: list[RocFinding] = []
    if "unit" in attacks:
        coins += session.unit([*arms, silent])
    if "text" in attacks:
        coins += session.text([*arms, silent])
    if "membership" in attacks:
        rocs += session.membership([*arms, silent])
    return Audit(
        plan=plan,
        site=site,
        num_units=session.num_units,
        delta=spec.delta,
        num_parameters=session.num_parameters,
        rounds=plan.training.horizon,
        coins=coins,
        membership=rocs,
        seconds=time.monotonic() - started,
        command=command or shlex.join(sys.argv),
    )


def _check(epsilon: Sequence[float], canaries: int, attacks: Sequence[Attack]) -> None:
    if not epsilon or not all(0 < value < math.inf for value in epsilon):
        raise ConfigError(
            f"got {', '.join(map(str, epsilon)) or 'none'}.",
            where="--epsilon",
            mend="give finite numbers above zero; the training without noise is always run beside them.",
        )
    if canaries < FEWEST_CANARIES:
        raise ConfigError(
            f"got {canaries}.", where="--canaries", mend=f"give {FEWEST_CANARIES} or more: fewer show next to nothing."
        )
    if not attacks or not set(attacks) <= set(ATTACKS):
        raise ConfigError(
            f"got {', '.join(attacks) or 'none'}.", where="--attack", mend=f"one of {', '.join(ATTACKS)}."
        )


class _Session:
    """One plan's trainer and one site's records, for all attacks."""

    def __init__(
        self,
        plan: Plan,
        records: Records,
        spec: SimulationSpec,
        server: ServerSpec,
        *,
        by_record: bool,
        canaries: int,
        attacks: Sequence[Attack],
        tell: Tell | None,
    ) -> None:
        self._plan, self._spec, self._by_record = plan, spec, by_record
        self._records, _ = records.split(plan.training.train_fraction)
        self._canaries, self._attacks = canaries, attacks
        self._tell: Tell = tell or (lambda _text: None)
        self.num_units = self._records.num_units
        self._rounds = plan.training.horizon
        self._event = self._noiseless(records.num_units * plan.training.train_fraction)
        base = checked_base(plan.model.base, plan.model.sha256)
        self._trainer = AuditedTrainer(plan, base)
        self._initial = (
            load_start(plan, server, self._trainer.classifier, base).arrays
            if plan.method.init is not None
            else initial_arrays(self._trainer.classifier)
        )

    @property
    def num_parameters(self) -> int:
        """Parameters that the first round trains."""
        return self._trainer.method.trainable(self._trainer.spec, 1).size

    def check_canaries(self) -> None:
        """Raises InputError where a round trains fewer parameters than there are canaries."""
        for round in range(1, self._rounds + 1):
            size = self._trainer.method.trainable(self._trainer.spec, round).size
            coordinates(self._canaries, size, self._spec.seed)

    def arm(self, asked: float | None) -> Arm:
        """The events that a site with this share would calibrate, and what they cost."""
        if asked is None:
            return Arm(None, self._event, math.inf)
        steps = self._rounds * self._event.steps
        sigma = noise_multiplier(
            sample_rate=self._event.sample_rate, steps=steps, epsilon=asked, delta=self._spec.delta
        )
        event = replace(self._event, noise_multiplier=sigma)
        return Arm(asked, event, composed_epsilon([event] * self._rounds, self._spec.delta))

    def unit(self, arms: Sequence[Arm]) -> list[CoinFinding]:
        """Worst-case canaries, white box."""
        coins = self._coins("unit", self._canaries)
        found = []
        for arm in arms:
            self._tell(f"white box, {_words(arm)}: {self._steps()}")
            guesses = settle(
                arm.event,
                self._rounds,
                self._canaries,
                arm.claim,
                self._spec.delta,
                white_box.typical_spread(arm.event, self.num_parameters),
            )
            scores = white_box.attack(
                self._trainer, self._real, arm.event, self._rounds, coins, self._spec.seed, self._initial
            )
            found.append(self._judge("unit", arm, guesses, scores, coins))
        return found

    def text(self, arms: Sequence[Arm]) -> list[CoinFinding]:
        """Text canaries, final adapter only."""
        coins = self._coins("text", self._canaries)
        guesses = black_box.guesses(self._canaries)
        found = []
        for arm in arms:
            self._tell(f"text canaries, {_words(arm)}: {self._steps()}")
            final = self._final(np.concatenate([np.ones(self.num_units, bool), coins]), arm, "text")
            falls = self._losses(self._initial) - self._losses(final)
            scores = falls[len(self._records.texts) :]
            found.append(self._judge("text", arm, guesses, scores, coins))
        return found

    def membership(self, arms: Sequence[Arm]) -> list[RocFinding]:
        """The loss-threshold attack on the site's own units."""
        members = self._coins("membership", self.num_units)
        nobody = np.zeros(self._all.num_units - self.num_units, bool)
        num_records = len(self._records.texts)
        found = []
        for arm in arms:
            self._tell(f"membership, {_words(arm)}: {self._steps()}")
            final = self._final(np.concatenate([members, nobody]), arm, "membership")
            losses = membership.by_unit(self._losses(final)[:num_records], self._records)
            judged = np.isfinite(losses)
            if not (judged & members).any() or not (judged & ~members).any():
                raise ConfigError("the site has too few units to attack.", where="--data", mend="bring more data.")
            curve = membership.roc(losses[judged & members], losses[judged & ~members])
            found.append(RocFinding(arm, curve, membership.bounds(arm.event, self._rounds)))
        return found

    def _final(self, chosen: Coins, arm: Arm, attack: Attack) -> Arrays:
        """The adapter after training on these units."""
        words = (self._spec.seed, "audit", attack)
        return run_horizon(
            self._trainer,
            Chosen(self._examples, self._all.units, chosen),
            arm.event,
            self._rounds,
            words,
            self._initial,
        )

    def _losses(self, arrays: Arrays) -> Scores:
        return black_box.losses(self._trainer, arrays, self._examples)

    @cached_property
    def _all(self) -> LabelledTexts:
        """The site's records and, for text canaries, those; units likewise."""
        if "text" not in self._attacks:
            return self._records
        labels = len(self._plan.task.labels)
        canaries = black_box.text_canaries(self._trainer.tokenizer, labels, self._canaries, self._spec.seed)
        names = {str(index): index for index in range(labels)}
        targets = self._trainer.task.targets([str(index) for index in canaries.labels.tolist()], names, ";")
        canaries = replace(canaries, labels=targets)
        return black_box.joined(self._records, canaries)

    @cached_property
    def _examples(self) -> Examples:
        """All of them, prepared once for every attack."""
        self._tell(f"preparing {len(self._all.texts):,} records")
        return self._trainer.prepare(self._all)

    @cached_property
    def _real(self) -> Examples:
        """The site's units alone."""
        chosen = np.arange(self._all.num_units) < self.num_units
        return Chosen(self._examples, self._all.units, chosen)

    def _judge(self, attack: Attack, arm: Arm, guesses: Guesses, scores: Scores, coins: Coins) -> CoinFinding:
        assert attack != "membership"
        tally = guesses.tally(scores, coins)
        delta = self._spec.delta
        most = cap(tally.num_canaries, tally.num_guesses, delta)
        return CoinFinding(attack, arm, guesses, tally, lower_bound(tally, delta), most)

    def _coins(self, attack: Attack, count: int) -> Coins:
        """Fair coins from a stream of their own: no draw of any training depends on them, nor they on it."""
        return SeededNoise(self._spec.seed, "audit coins", attack).mask(count, 0.5)

    def _noiseless(self, num_training: float) -> TrainEvent:
        """One round's event at this site, as a simulation has it, with the noise still to be set."""
        training, spec = self._plan.training, self._spec
        own = max(1, round(spec.sample_rate * num_training))
        batch = own if training.expected_batch == "site" else training.expected_batch
        if batch > num_training:
            raise ConfigError(
                f"the plan's batch of {batch:,} units is more than the site's {num_training:,.0f}; it would refuse.",
                where="training.expected_batch",
                mend="audit fewer sites, more data or a smaller batch.",
            )
        return TrainEvent(
            sample_rate=batch / num_training,
            noise_multiplier=0.0,
            steps=training.local_steps,
            max_grad_norm=training.max_grad_norm,
            expected_batch=batch,
            unit="record" if self._by_record else "unit",
            max_records=spec.max_records,
        )

    def _steps(self) -> str:
        return f"{self._rounds:,} rounds of {self._event.steps:,} steps"


def _words(arm: Arm) -> str:
    return "noise removed" if arm.asked is None else f"epsilon {arm.asked:g}"
