"""The adapter that a run starts from: derived from the plan, or a finished run's, by its digest."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privet.common.adapter import Arrays, digest
from privet.common.config import Plan, ServerSpec
from privet.common.errors import ConfigError
from privet.common.initial import initial_adapter
from privet.common.methods import method_for
from privet.common.model import Classifier, initial_arrays
from privet.common.prediction import Predictor

_SAME = (
    "task.labels",
    "model.sha256",
    "model.pooling",
    "model.feature_scale",
    "lora.rank",
    "lora.alpha",
    "lora.targets",
)


@dataclass(frozen=True)
class Start:
    """arrays: every one of the adapter. earlier: the entry "init" of privacy.json, None for a derived adapter."""

    arrays: Arrays
    earlier: dict[str, Any] | None = None


def load_start(plan: Plan, server: ServerSpec, classifier: Classifier, base: Path) -> Start:
    """The plan's initial adapter; where `method.init` names one, that of the folder `[server] init`.

    The folder is a run's, or its adapter/: the weights that the run ended with, bit by bit. Sites derive what the
    plan's method never trains; so this part must be the derived one.
    Raises: ConfigError, ModelError.
    """
    wanted = plan.method.init
    if wanted is None:
        if server.init is not None:
            found = f" ({_digest_told(server.init, plan, base)})"
            raise ConfigError(
                f"the plan does not say that it starts from a trained adapter{found}.",
                where="server.init",
                mend="set method.init to that digest (the sites approve the plan anew), or take server.init out.",
            )
        return Start(initial_arrays(classifier))
    if server.init is None:
        raise ConfigError(
            f"the plan starts from the adapter {wanted}, and no folder is named.",
            where="server.init",
            mend="name the run folder, or its adapter/, that holds it.",
        )
    folder = _folder(server.init)
    earlier = Predictor.load(folder, str(base)).classifier
    for key in _SAME:
        old, new = _value(earlier.plan, key), _value(plan, key)
        if old != new:
            raise ConfigError(
                f"the adapter was trained with {old!r}, the plan says {new!r}.",
                where=f"{folder}: {key}",
                mend="set the plan's key to what the adapter was trained with.",
            )
    arrays = earlier.read()
    if digest(arrays) != wanted:
        raise ConfigError(
            f"the folder's adapter has digest {digest(arrays)}, the plan names {wanted}.",
            where=str(folder),
            mend="name the other folder in server.init, or set method.init to the folder's digest.",
        )
    _allow_frozen(plan, earlier, arrays)
    return Start(arrays, _reference(folder, earlier.plan, wanted))


def _folder(path: Path) -> Path:
    return path / "adapter" if (path / "adapter").is_dir() else path


def _digest_told(path: Path, plan: Plan, base: Path) -> str:
    return f"the folder's has digest {digest(Predictor.load(_folder(path), str(base)).classifier.read())}"


def _value(plan: Plan, key: str) -> Any:
    table, _, name = key.partition(".")
    return getattr(getattr(plan, table), name)


def _allow_frozen(plan: Plan, earlier: Classifier, arrays: Arrays) -> None:
    """Raises: ConfigError where an array that sites derive, and the method never trains, is not the derived one."""
    method = method_for(plan)
    trained = set(method.broadcast(earlier.spec, method.init(arrays), 1))  # in some round
    derived = initial_adapter(earlier.spec, plan.method.seed)
    differing = [name for name in earlier.spec.names if name not in trained and (arrays[name] != derived[name]).any()]
    if not differing:
        return
    seed, then = plan.method.seed, earlier.plan.method
    what = f"{differing[0]} is not what the plan derives, and method {plan.method.kind} never trains it."
    mend = f"set method.seed to that of the earlier plan, {then.seed} (here it is {seed})."
    if seed == then.seed:
        mend = f'set method.kind to one that trains it, as the earlier plan\'s "{then.kind}".'
    raise ConfigError(what, where="method.seed" if seed != then.seed else "method.kind", mend=mend)


def _reference(folder: Path, earlier: Plan, wanted: str) -> dict[str, Any]:
    """The earlier run, and what its sites stated: for a unit that was in both runs the losses add up."""
    try:
        content = (folder / "privacy.json").read_bytes()
        document = json.loads(content)
        checksum = hashlib.sha256(content).hexdigest()
        if document.get("adapter", wanted) != wanted:
            raise ValueError("of another adapter")
    except (OSError, ValueError, AttributeError, RecursionError):
        document = checksum = None
    return {
        "adapter": wanted,
        "plan": earlier.digest,
        "meaning": "the weights started from this adapter: the statements of its run apply as well, and add up with "
        "these for whoever's records were used in both",
        "privacy_sha256": checksum,
        "privacy": document,
    }
