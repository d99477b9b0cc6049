"""Which gradient engine computes a plan: Opacus, the reference; or the fused one, for the models that it covers.

A method that trains the last layer alone needs neither: its gradients have a closed form (`LinearEngine`). Of the room
`privet.client.fused` two functions are asked: `covers(plan, folder)`, why it does not compute a plan on the base in a
folder or None, and `engine(plan, folder, whole, trainable, precision)`, a self-testable engine.
"""

from pathlib import Path
from typing import Any, Literal, Protocol

from torch import Tensor

from privet.client.gradients import GradientEngine, LinearEngine, OpacusEngine
from privet.common.adapter import AdapterSpec
from privet.common.config import Plan
from privet.common.errors import ConfigError
from privet.common.examples import Batch
from privet.common.model import Classifier
from privet.common.precision import Precision
from privet.common.tasks.classification import per_example_loss

EngineName = Literal["opacus", "fused"]
AskedEngine = Literal["opacus", "fused", "auto"]


class TestedEngine(GradientEngine, Protocol):
    """What the self-test compares: an engine with an oracle of its own."""

    def alone(self, batch: Batch, row: int) -> Tensor:
        """One row's gradient [P] by a plain backward."""


def gradient_engine(
    name: EngineName,
    classifier: Classifier,
    trainable: AdapterSpec,
    base: Path,
    *,
    precision: Precision = "float32",
    frozen_features: bool = False,
) -> TestedEngine:
    """The engine of what a round trains of `classifier`; not yet self-tested.

    base: the folder of the classifier's base. precision: of the frozen products where the engine loads its own; those
    of the classifier have theirs. frozen_features: the last layer alone is trained, on features computed once.
    Raises: ConfigError where the fused engine is asked for and not installed.
    """
    parameters = {name: classifier.parameter(name) for name in trainable.names}
    if frozen_features:
        return LinearEngine(classifier.last_layer(), parameters, trainable, per_example_loss)
    if name == "fused":
        made: TestedEngine = _fused().engine(classifier.plan, base, classifier.spec, trainable, precision)
        return made
    return OpacusEngine(classifier, parameters, trainable, per_example_loss)


def not_covered(plan: Plan, base: Path) -> str | None:
    """Why the fused engine does not compute this plan on the base in this folder; None where it does, or where the
    plan's method needs no engine."""
    if plan.method.kind == "head":
        return None
    try:
        reason: str | None = _fused().covers(plan, base)
    except ConfigError as error:
        return error.what
    return reason


def require(name: EngineName, plan: Plan, base: Path) -> None:
    """Raises: ConfigError, for a site's operator, where the engine that the site file names does not compute the plan.

    Another engine is never taken in its place: the operator chose.
    """
    reason = None if name == "opacus" else not_covered(plan, base)
    if reason is not None:
        raise ConfigError(
            f"the fused engine does not compute this plan: {reason}",
            where="resources.engine",
            mend='set engine = "opacus", which computes every plan.',
        )


def choose(asked: AskedEngine, plan: Plan, base: Path) -> tuple[EngineName, str]:
    """The engine of a simulation, and why, in words for people: "auto" is the fused one where it covers the plan.

    Raises: ConfigError where "fused" is asked for and does not.
    """
    if asked == "opacus":
        return "opacus", "opacus"
    reason = not_covered(plan, base)
    if reason is None:
        return "fused", "fused"
    if asked == "fused":
        require("fused", plan, base)
    return "opacus", f"opacus; the fused engine does not compute this plan: {reason}"


def in_words(name: EngineName, plan: Plan) -> str:
    """What computes the units' gradients of this plan, for people."""
    if plan.method.kind == "head":
        return "closed form of the last layer"
    return "Opacus" if name == "opacus" else "fused"


def _fused() -> Any:
    """Raises: ConfigError where this installation has none."""
    from importlib import import_module
    from importlib.util import find_spec

    if find_spec("privet.client.fused") is None:
        raise ConfigError(
            "this installation of privet has no fused engine.", where="engine", mend='set engine = "opacus".'
        )
    return import_module("privet.client.fused")
