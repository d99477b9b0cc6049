"""What a sweep would cost at real sites, and why it is not free."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from privet.common.privacy.horizon import horizon_epsilon
from privet.common.privacy.statement import Statement
from privet.server.card import loss_text, number_text

NOT_FREE = (
    "Tuning on private data is not free: every trial that runs at real sites spends their budgets, and a setting "
    "chosen by results on private records tells of them. Choose on public or generated data, and run the one plan."
)

_MOST = 200  # different mechanisms that are composed: some seconds


@dataclass(frozen=True)
class Cost:
    """All finished trials, each run once, at the site that each costs most.

    charged: what a site's ledger would add up, sum of epsilons (at the sum of deltas); it holds also where trials are
    chosen by earlier results; None without privacy. composed: at one delta, had all trials been fixed in advance; None
    also where they have too many different mechanisms to compose them.
    """

    trials: int
    charged: float | None
    charged_delta: float
    composed: float | None
    delta: float

    def to_json(self) -> dict[str, Any]:
        """Of JSON's types."""
        return asdict(self)

    @property
    def words(self) -> str:
        """One sentence or two."""
        plural = "trial" if self.trials == 1 else f"{self.trials} trials"
        if self.charged is None:
            return f"The {plural} ran without privacy; at real sites there is no such thing."
        if self.composed is None:
            composed = f"more than {_MOST} different mechanisms are not composed here"
        else:
            composed = (
                "composed by the accountant, had all been fixed in advance, they cost ε "
                f"{loss_text(self.composed)} (δ {number_text(self.delta)})"
            )
        return (
            f"At real sites the {plural}, each run once, would be charged ε {loss_text(self.charged)} (δ "
            f"{number_text(self.charged_delta)}) by a site's ledger; {composed}. This simulation spent none."
        )


def cost_of(statements: Sequence[Statement]) -> Cost | None:
    """Of one statement a trial; None where no trial finished."""
    if not statements:
        return None
    delta = max(stated.delta for stated in statements)
    losses = [stated.epsilon for stated in statements]
    total = sum(stated.delta for stated in statements)
    if any(loss is None for loss in losses):
        return Cost(len(statements), None, total, None, delta)
    composed = None
    if len({stated.horizon for stated in statements}) <= _MOST:
        composed = horizon_epsilon([stated.horizon for stated in statements], delta)
    return Cost(len(statements), sum(loss for loss in losses if loss is not None), total, composed, delta)
