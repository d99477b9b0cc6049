"""What an audit found: rows for a table, and one JSON document."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from privet.common.config import Plan
from privet.common.privacy.events import TrainEvent
from privet.simulations.audit.bound import CONFIDENCE, Tally
from privet.simulations.audit.guesses import Guesses
from privet.simulations.audit.membership import ALPHAS, Bounds, Roc

Attack = Literal["unit", "text", "membership"]
ATTACKS: tuple[Attack, ...] = ("unit", "text", "membership")
SEEING = 0.9  # of the cap: what the white box must reach where no noise is added

NO_PROOF = (
    "An audit bounds the leak from below: it can find a fault, never prove that there is none. The guarantee is the "
    "accountant's, for a trainer that does what the events say."
)

TITLES: dict[Attack, str] = {
    "unit": "White box, worst-case units",
    "text": "Black box, text canaries",
    "membership": "Loss-threshold membership",
}


@dataclass(frozen=True)
class Arm:
    """One training of an attack. `asked`: the epsilon asked for, None where the noise was removed."""

    asked: float | None
    event: TrainEvent
    claim: float  # epsilon by the accountant, for these very events; inf without noise


@dataclass(frozen=True)
class CoinFinding:
    """A one-run bound beside the claim."""

    attack: Literal["unit", "text"]
    arm: Arm
    guesses: Guesses
    tally: Tally
    bound: float
    cap: float  # where every one of these guesses is right

    @property
    def verdict(self) -> Literal["pass", "violation", "blind", "seen"]:
        """violation: above the claim. Without noise: whether the white box sees what is there."""
        if self.arm.asked is not None:
            return "pass" if self.bound <= self.arm.claim else "violation"
        return "blind" if self.attack == "unit" and self.bound < SEEING * self.cap else "seen"

    @property
    def out_of_reach(self) -> bool:
        """Whether no outcome could have contradicted the claim."""
        return self.arm.asked is not None and self.cap <= self.arm.claim

    def to_json(self) -> dict[str, Any]:
        return {
            **_arm_json(self.arm),
            "bound": self.bound,
            "cap": self.cap,
            "canaries": self.tally.num_canaries,
            "guesses": self.tally.num_guesses,
            "guessed_in": self.guesses.num_in,
            "guessed_out": self.guesses.num_out,
            "right": self.tally.num_right,
            "claim_out_of_reach": self.out_of_reach,
            "verdict": self.verdict,
        }


@dataclass(frozen=True)
class RocFinding:
    """A membership attack beside the statement's bounds."""

    arm: Arm
    roc: Roc
    bounds: Bounds

    def to_json(self) -> dict[str, Any]:
        return {
            **_arm_json(self.arm),
            "members": self.roc.num_members,
            "others": self.roc.num_others,
            "auc": self.roc.auc,
            "advantage": self.roc.advantage,
            "advantage_bound": self.bounds.advantage,
            "true_positive": [
                {"at": alpha, "rate": self.roc.at(alpha), "bound": bound}
                for alpha, bound in zip(ALPHAS, self.bounds.true_positive, strict=True)
            ],
        }


@dataclass(frozen=True)
class Audit:
    """All findings about one plan at one virtual site."""

    plan: Plan
    site: str
    num_units: int
    delta: float
    num_parameters: int
    rounds: int
    coins: Sequence[CoinFinding]
    membership: Sequence[RocFinding]
    seconds: float
    command: str

    @property
    def verdict(self) -> Literal["pass", "violation", "blind"]:
        """blind: the white box did not see what the trainer gives without noise, so its other rows say nothing."""
        found = {finding.verdict for finding in self.coins}
        return "violation" if "violation" in found else "blind" if "blind" in found else "pass"

    @property
    def words(self) -> str:
        """The verdict for people."""
        if self.verdict == "violation":
            worst = max(
                (finding for finding in self.coins if finding.verdict == "violation"),
                key=lambda finding: finding.bound - finding.arm.claim,
            )
            return (
                f"A fault: the training leaks more than is claimed. Epsilon is at least {worst.bound:.2f} at "
                f"{CONFIDENCE:.0%} confidence, and {worst.arm.claim:.2f} was claimed."
            )
        if self.verdict == "blind":
            return "The audit is blind: with the noise removed it sees less than it must, so its bounds say nothing."
        return "No fault found: no bound lies above its claim."

    def to_json(self) -> dict[str, Any]:
        """One JSON document; nothing in it is infinite."""
        return {
            "format": 1,
            "kind": "audit",
            "verdict": self.verdict,
            "words": self.words,
            "guarantee": False,
            "reason": NO_PROOF,
            "federation": self.plan.name,
            "plan": self.plan.digest,
            "site": self.site,
            "units": self.num_units,
            "delta": self.delta,
            "confidence": CONFIDENCE,
            "parameters": self.num_parameters,
            "rounds": self.rounds,
            "unit": [finding.to_json() for finding in self.coins if finding.attack == "unit"],
            "text": [finding.to_json() for finding in self.coins if finding.attack == "text"],
            "membership": [finding.to_json() for finding in self.membership],
            "seconds": round(self.seconds, 3),
            "command": self.command,
        }


def _arm_json(arm: Arm) -> dict[str, Any]:
    return {
        "noise": arm.asked is not None,
        "epsilon": arm.asked,
        "claim": arm.claim if math.isfinite(arm.claim) else None,
        "event": asdict(arm.event),
    }
