"""Federated methods as pure functions on named arrays: privet's own, and those of installed distributions."""

from privet.common.config import Plan
from privet.common.errors import ConfigError
from privet.common.methods.averaging import ROLES, Averaging
from privet.common.methods.base import Adjust, Method, State, Update, Values
from privet.common.methods.weights import Stated, aggregation_weights

__all__ = [
    "ROLES",
    "Adjust",
    "Averaging",
    "Method",
    "State",
    "Stated",
    "Update",
    "Values",
    "adjustment",
    "aggregation_weights",
    "is_foreign",
    "method_for",
]


def method_for(plan: Plan) -> Method:
    """The plan's method. One that is not privet's own is imported: at a site, only after its policy let the plan pass.

    Raises: ConfigError where it is not installed here, or does not take the plan's options.

    >>> from privet.common.methods.averaging import ROLES
    >>> sorted(ROLES)
    ['fedavg', 'ffa', 'head']
    """
    spec = plan.method
    if not is_foreign(plan):
        if spec.options:
            raise ConfigError(
                f"{spec.kind} takes no options, got {', '.join(spec.options)}.",
                where="method.options",
                mend="take them out.",
            )
        return Averaging(spec.kind, ROLES[spec.kind], spec.server_learning_rate, spec.server_momentum)
    from privet.common.methods.installed import load

    return load(plan)


def is_foreign(plan: Plan) -> bool:
    """Whether the plan's method is none of privet's own: its code is another distribution's."""
    return plan.method.kind not in ROLES


def adjustment(method: Method) -> Adjust | None:
    """The method's hook on noised gradients; None for privet's own, which leave them as they are."""
    return None if type(method) is Averaging else method.local_gradient
