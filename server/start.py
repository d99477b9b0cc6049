"""The adapter that a run starts from: derived from the plan, or a finished run's, by its digest."""

import hashlib
import json
from pathlib import Path
from typing import Any

from privet.common.adapter import AdapterSpec, Arrays, Floats, digest
from privet.common.config import Plan, ServerSpec, load_federation
from privet.common.errors import ConfigError
from privet.common.initial import initial_adapter
from privet.common.methods import method_for
from privet.common.model import Classifier, initial_arrays
from privet.common.prediction import Predictor
from privet.server.relabel import relabelled, resolved
from privet.server.start_arrays import Start

_SAME = (
    "task.kind",
    "model.sha256",
    "model.pooling",
    "model.feature_scale",
    "lora.rank",
    "lora.alpha",
    "lora.targets",
    "lora.first_layer",
)


def load_start(plan: Plan, server: ServerSpec, classifier: Classifier, base: Path) -> Start:
    """The plan's initial adapter; where `method.init` names one, that of the folder `[server] init`.

    The folder is a run's, or its adapter/: the weights that the run ended with, bit by bit; under another label set,
    with the last layer's rows where `[server] init_labels` puts them. `method.init` is the digest of what is started
    from. Sites derive what the plan's method never trains; so this part must be the derived one.
    Raises: ConfigError, ModelError.
    """
    wanted = plan.method.init
    if wanted is None:
        if server.init is not None:
            found = f" ({_digest_told(server, plan, base)})"
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
    earlier, arrays, trained = _read(folder, server, plan, base)
    if digest(arrays) != wanted:
        under = " under the plan's labels" if server.init_labels else ""
        raise ConfigError(
            f"the folder's adapter{under} has digest {digest(arrays)}, the plan names {wanted}.",
            where=str(folder),
            mend="name the other folder in server.init, or set method.init to the folder's digest.",
        )
    _allow_frozen(plan, earlier, classifier.spec, arrays)
    return Start(arrays, _reference(folder, earlier, trained, plan, server))


def _read(folder: Path, server: ServerSpec, plan: Plan, base: Path) -> tuple[Plan, dict[str, Floats], str]:
    """The earlier run's plan; its adapter as this plan starts from it, and the digest that it had.

    Raises: ConfigError where it does not fit; ModelError where it cannot be read.
    """
    if (folder / "plan.toml").is_file():  # before its base is looked for: another one is told as such
        earlier = load_federation(folder / "plan.toml").plan
        for key in _SAME:
            old, new = _value(earlier, key), _value(plan, key)
            if old != new:
                raise ConfigError(
                    f"the adapter was trained with {old!r}, the plan says {new!r}.",
                    where=f"{folder}: {key}",
                    mend="set the plan's key to what the adapter was trained with.",
                )
    found = Predictor.load(folder, str(base)).classifier
    trained = found.read()
    arrays = relabelled(trained, found.spec, found.plan.task, plan.task, server.init_labels)
    return found.plan, arrays, digest(trained)


def _folder(path: Path) -> Path:
    return path / "adapter" if (path / "adapter").is_dir() else path


def _digest_told(server: ServerSpec, plan: Plan, base: Path) -> str:
    assert server.init is not None
    _, arrays, _ = _read(_folder(server.init), server, plan, base)
    return f"the folder's has digest {digest(arrays)}"


def _value(plan: Plan, key: str) -> Any:
    table, _, name = key.partition(".")
    return getattr(getattr(plan, table), name)


def _allow_frozen(plan: Plan, earlier: Plan, spec: AdapterSpec, arrays: Arrays) -> None:
    """Raises: ConfigError where an array that sites derive, and the method never trains, is not the derived one."""
    method = method_for(plan)
    trained = set(method.broadcast(spec, method.init(arrays), 1))  # in some round
    derived = initial_adapter(spec, plan.method.seed)
    differing = [name for name in spec.names if name not in trained and (arrays[name] != derived[name]).any()]
    if not differing:
        return
    seed, then = plan.method.seed, earlier.method
    what = f"{differing[0]} is not what the plan derives, and method {plan.method.kind} never trains it."
    mend = f"set method.seed to that of the earlier plan, {then.seed} (here it is {seed})."
    if seed == then.seed:
        mend = f'set method.kind to one that trains it, as the earlier plan\'s "{then.kind}".'
    raise ConfigError(what, where="method.seed" if seed != then.seed else "method.kind", mend=mend)


def _reference(folder: Path, earlier: Plan, trained: str, plan: Plan, server: ServerSpec) -> dict[str, Any]:
    """The earlier run, and what its sites stated: for a unit that was in both runs the losses add up."""
    try:
        content = (folder / "privacy.json").read_bytes()
        document = json.loads(content)
        checksum = hashlib.sha256(content).hexdigest()
        if document.get("adapter", trained) != trained:
            raise ValueError("of another adapter")
    except (OSError, ValueError, AttributeError, RecursionError):
        document = checksum = None
    labels = resolved(earlier.task.labels, plan.task.labels, server.init_labels) if server.init_labels else None
    return {
        "adapter": trained,
        "plan": earlier.digest,
        "meaning": "the weights started from this adapter: the statements of its run apply as well, and add up with "
        "these for whoever's records were used in both",
        "privacy_sha256": checksum,
        "privacy": document,
    } | ({} if labels is None else {"labels": labels, "started_from": plan.method.init})
