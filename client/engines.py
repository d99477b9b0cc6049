"""Which gradient engine computes a plan: Opacus, the reference; or the fused one, for the models that it covers.

A method that trains the last layer alone needs neither: its gradients have a closed form. Of the room
`privet.client.fused` two functions are asked: `covers(plan, folder)`, why it does not compute a plan on the base in a
folder, or None; and `engine_of(classifier, folder, trainable, precision)`, an engine that can be self-tested.
"""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from privet.common.config import Plan, Site
from privet.common.errors import ConfigError
from privet.common.precision import AskedPrecision, Precision, usable_precision

if TYPE_CHECKING:
    from privet.client.fused import SiteEngine
    from privet.client.gradients import OpacusEngine
    from privet.client.linear import LinearEngine
    from privet.common.adapter import AdapterSpec
    from privet.common.model import Classifier

EngineName = Literal["opacus", "fused"]
AskedEngine = Literal["opacus", "fused", "auto"]


def gradient_engine(
    name: EngineName,
    classifier: "Classifier",
    trainable: "AdapterSpec",
    base: Path,
    *,
    precision: Precision = "float32",
    frozen_features: bool = False,
) -> "OpacusEngine | LinearEngine | SiteEngine":
    """The engine of what a round trains of `classifier`; not yet self-tested.

    base: the folder of the classifier's base. precision: that of the classifier's frozen layers (`common.frozen`).
    frozen_features: the last layer alone is trained, on features computed once.
    Raises: ConfigError where the fused engine is asked for and not installed.
    """
    from privet.client.gradients import OpacusEngine
    from privet.client.linear import LinearEngine
    from privet.client.rounded import RoundedOpacusEngine
    from privet.common.prefix import Resumable, splits

    loss, parameters = classifier.task.per_example_loss, {name: classifier.parameter(name) for name in trainable.names}
    if frozen_features:
        return LinearEngine(classifier.last_layer(), parameters, trainable, loss)
    if name == "fused":
        made: SiteEngine = _fused().engine_of(classifier, base, trainable, precision)
        return made
    kind = OpacusEngine if precision == "float32" else RoundedOpacusEngine
    module = Resumable(classifier) if splits(classifier) else classifier
    return kind(module, parameters, trainable, loss)


def not_covered(plan: Plan, base: Path) -> str | None:
    """Why the fused engine does not compute this plan on the base in this folder; None where it does, or where the
    plan's method needs no engine."""
    if plan.method.kind == "head" and plan.task.kind != "tokens":
        return None
    try:
        reason: str | None = _fused().covers(plan, base)
    except ConfigError as error:
        return error.what
    return reason


def require(name: EngineName, plan: Plan, base: Path) -> None:
    """Raises: ConfigError, for a site's operator, where the engine that the site file names does not compute the plan.

    No other engine is taken in its place: the operator chose.
    """
    reason = None if name == "opacus" else not_covered(plan, base)
    if reason is not None:
        raise ConfigError(
            f"the fused engine does not compute plan {plan.digest[:16]}: {reason.rstrip('.')}.",
            where="resources.engine",
            mend='set engine = "opacus", which computes every plan.',
        )


def choose(asked: AskedEngine, plan: Plan, base: Path) -> tuple[EngineName, str]:
    """The engine of a simulation, and why, in words for people: "auto" is the fused one where it covers the plan.

    Raises: ConfigError where "fused" is asked for and does not.
    """
    if asked == "opacus":
        return "opacus", "Opacus"
    reason = not_covered(plan, base)
    if reason is None:
        return "fused", "the fused engine"
    if asked == "fused":
        require("fused", plan, base)
    return "opacus", f"Opacus; the fused engine does not compute this plan: {reason}"


def asked_in_words(site: Site, plan: Plan | None = None) -> str:
    """What the site file says of how gradients are computed, for pages and screens. A function of plan and file alone.

    >>> from types import SimpleNamespace as Some
    >>> asked_in_words(Some(resources=Some(engine="opacus", precision="auto")))
    'by Opacus, the frozen base in bfloat16 where the machine has it, all that is trained in float32'
    """
    by = "Opacus" if site.resources.engine == "opacus" else "the fused engine"
    if plan is not None and plan.method.kind == "head" and plan.task.kind != "tokens":
        by = "the closed form of the last layer"
    return f"by {by}, {_PRECISIONS[site.resources.precision]}"


def found_in_words(site: Site) -> str:
    """The same on this machine: what precision = "auto", or one that the machine lacks, comes to."""
    by = "Opacus" if site.resources.engine == "opacus" else "the fused engine"
    return f"gradients by {by}; {usable_precision(site.resources.precision)[1]}."


def installed(name: EngineName) -> None:
    """Raises: ConfigError where this installation has no such engine."""
    if name == "fused":
        _fused()


_PRECISIONS: dict[AskedPrecision, str] = {
    "float32": "all in float32",
    "bfloat16": "the frozen base in bfloat16, all that is trained in float32",
    "auto": "the frozen base in bfloat16 where the machine has it, all that is trained in float32",
}


def _fused() -> Any:
    """Raises: ConfigError where this installation has none."""
    if find_spec("privet.client.fused") is None:
        raise ConfigError(
            "this installation of privet has no fused engine.",
            where="resources.engine",
            mend='set engine = "opacus".',
        )
    return import_module("privet.client.fused")
