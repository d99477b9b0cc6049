"""Methods of other installed distributions, by the entry point group `privet.methods`.

Finding one reads the distributions' metadata and imports nothing; only `load` imports, and it is for the caller to know
that this machine's operator wants this method run: a site asks its policy first (client/rules).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

from privet.common.config import Plan
from privet.common.errors import ConfigError
from privet.common.methods.averaging import ROLES
from privet.common.methods.base import Method
from privet.common.methods.checked import Checked

GROUP = "privet.methods"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


@dataclass(frozen=True)
class Provider:
    """The distribution that provides a method."""

    method: str
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"


def provider(name: str) -> Provider:
    """Who provides the method `name`, which is none of privet's own; nothing is imported.

    Raises: ConfigError where nobody does, where two do, or where the name looks like one of privet's own.
    """
    return _find(name)[0]


def words(name: str) -> str:
    """A method's name for whoever decides, with the distribution that provides it; nothing is imported.

    >>> words("ffa"), words("nowhere")
    ('ffa', 'nowhere (not installed here)')
    """
    if name in ROLES:
        return name
    try:
        return f"{name} (of {provider(name)}, installed here; not privet's own)"
    except ConfigError:
        return f"{name} (not installed here)"


def load(plan: Plan) -> Method:
    """The plan's method, made by the code that is installed here; what it gives is checked from then on.

    Raises: ConfigError, also where it cannot be imported, does not take the plan's options, or is no method.
    """
    found, entry = _find(plan.method.kind)
    try:
        make: Callable[[Plan], Method] = entry.load()
        made = make(plan.model_copy(deep=True))  # a plan is nobody's to change
        return Checked(made, plan.method.kind, str(found))
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"{found} cannot make the method {plan.method.kind}: {type(error).__name__}: {error}.",
            where="method",
            mend="correct method.options, or mend that package.",
        ) from error


def _find(name: str) -> tuple[Provider, EntryPoint]:
    others = _offered()
    lookalikes = [own for own in ROLES if _plain(own) == _plain(name)]
    if lookalikes:
        raise ConfigError(f"{name} is not {lookalikes[0]}.", where="method.kind", mend=f'write "{lookalikes[0]}".')
    found = [pair for pair in others if pair[0].method == name]
    if len(found) > 1:
        raise ConfigError(
            f"{name} is provided by {' and by '.join(str(one) for one, _ in found)}.",
            where="method.kind",
            mend="uninstall all but one of them.",
        )
    if not found:
        listed = ", ".join([*ROLES, *sorted(f"{one.method} of {one}" for one, _ in others)])
        raise ConfigError(
            f"no method {name} is installed here; there are: {listed}.",
            where="method.kind",
            mend="install the package that provides it, or name another.",
        )
    return found[0]


def _offered() -> list[tuple[Provider, EntryPoint]]:
    """Every method that other distributions offer, but for those under one of privet's own names or one alike."""
    own = {_plain(name) for name in ROLES}
    return [
        (Provider(entry.name, entry.dist.name, entry.dist.version), entry)
        for entry in entry_points(group=GROUP)
        if entry.dist is not None and _NAME.fullmatch(entry.name) and _plain(entry.name) not in own
    ]


def _plain(name: str) -> str:
    """A name without what the eye passes over.

    >>> _plain("Fed-Avg") == _plain("fedavg")
    True
    """
    return re.sub(r"[-_.]+", "", name).lower()
