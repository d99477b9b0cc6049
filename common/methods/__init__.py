"""Federated methods as pure functions on named arrays."""

from privet.common.config import Plan
from privet.common.methods.averaging import ROLES, Averaging
from privet.common.methods.base import Method, State, Update
from privet.common.methods.weights import Stated, aggregation_weights

__all__ = ["Method", "State", "Stated", "Update", "aggregation_weights", "method_for"]


def method_for(plan: Plan) -> Method:
    """The plan's method.

    >>> from privet.common.methods.averaging import ROLES
    >>> sorted(ROLES)
    ['fedavg', 'ffa', 'head']
    """
    spec = plan.method
    return Averaging(spec.kind, ROLES[spec.kind], spec.server_learning_rate, spec.server_momentum)
