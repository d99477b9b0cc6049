"""FedProx (Li et al. 2020, "Federated Optimization in Heterogeneous Networks") as a method of privet.

Each site minimises its loss plus (mu / 2) ‖w − w₀‖², w₀ being the weights that the round began with: the gradient of
that term, mu (w − w₀), is added to the noised one. mu = 0 is `fedavg`, to the last bit.

    [method]
    kind = "fedprox"
    options = { mu = 0.1, trains = "ffa" }       # trains: the arrays of "head", "ffa" or "fedavg" (the default)
"""

from dataclasses import dataclass

from privet.common.config import Plan
from privet.common.methods import ROLES, Averaging, Values


@dataclass(frozen=True)
class FedProx(Averaging):
    """`Averaging`, but for what a site's optimizer steps by."""

    mu: float = 0.1

    def local_gradient(self, gradient: Values, weights: Values, start: Values) -> Values:
        return gradient + self.mu * (weights - start)


def create(plan: Plan) -> FedProx:
    """The entry point. ValueError for options that it does not know: the plan is then refused everywhere."""
    method = plan.method
    options = {"mu": 0.1, "trains": "fedavg"} | method.options
    mu, trains = options.pop("mu"), options.pop("trains")
    if options:
        raise ValueError(f"no option {next(iter(options))!r}; there are mu and trains")
    if isinstance(mu, bool) or not isinstance(mu, int | float) or not 0 <= mu <= 100:
        raise ValueError("expected mu, a number from 0 to 100")
    if trains not in ROLES:
        raise ValueError(f"expected trains to be one of {', '.join(sorted(ROLES))}")
    return FedProx("fedprox", ROLES[str(trains)], method.server_learning_rate, method.server_momentum, mu=float(mu))
