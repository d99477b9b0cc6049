"""What can go wrong, and how it is told.

The tree::

    PrivetError                 exit 1   anything privet foresaw
    ├── InputError              exit 2   the user's input
    │   ├── ConfigError                  federation.toml, site.toml, a flag
    │   ├── DataError                    a data file
    │   └── ModelError                   a base model or an adapter
    ├── RefusedError            exit 3   a site's policy or budget said no; carries a Code
    ├── WireError               exit 1   what arrived over the wire is not what was agreed
    ├── LedgerError             exit 1   the site's ledger cannot be used (client/ledger/schema): nobody trains
    ├── TransportError          exit 1   the network, TLS or a key
    ├── RunError                exit 1   a federation that cannot go on
    └── StoppedError            exit 0   the operator ended what another start goes on with

An error is for a person: what is wrong, where (file, key, row) and the mend. Only a `Code` crosses the wire, and each
code is a function of plan, request, ledger and site file, never of records.
"""

from enum import StrEnum


class Code(StrEnum):
    """Status codes that may cross the wire. None depends on a record."""

    OK = "ok"
    PENDING = "pending"  # the plan waits for the operator's approval
    REFUSED_POLICY = "refused_policy"  # the site's policy does not allow this plan
    REFUSED_BUDGET = "refused_budget"  # the site's budget does not cover the plan
    UNKNOWN_PLAN = "unknown_plan"  # a request for a plan that the site has not approved
    OUTSIDE_HORIZON = "outside_horizon"  # a round that the approved horizon does not hold
    ALTERED_REQUEST = "altered_request"  # the same round was asked for before with other content
    ROUND_LOST = "round_lost"  # reserved earlier without a stored reply: spent, never run again
    LEDGER_BEHIND = "ledger_behind"  # the site's ledger is older than one it has shown: its operator must charge it
    BAD_REQUEST = "bad_request"  # malformed names, shapes, types or values
    BASE_MISMATCH = "base_mismatch"  # the base model's digest is not the plan's
    ADAPTER_MISMATCH = "adapter_mismatch"  # the initial adapter's digest differs
    UNAVAILABLE = "unavailable"  # anything unforeseen


class PrivetError(Exception):
    """The root: `what` went wrong, `where` (file, key, row) and the `mend`."""

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", mend: str = "") -> None:
        super().__init__(what)
        self.what, self.where, self.mend = what, where, mend

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text} Mend: {self.mend}" if self.mend else text


class InputError(PrivetError):
    """The user's input."""

    exit_code = 2


class ConfigError(InputError):
    """A configuration file or a flag."""


class DataError(InputError):
    """A data file. Told to the operator only; its text never holds a record's content."""


class ModelError(InputError):
    """A base model or an adapter."""


class RefusedError(PrivetError):
    """A site's policy or budget said no."""

    exit_code = 3

    def __init__(self, code: Code, what: str, *, where: str = "", mend: str = "") -> None:
        super().__init__(what, where=where, mend=mend)
        self.code = code


class WireError(PrivetError):
    """What arrived over the wire is not what was agreed. The text stays where it was raised."""


class TransportError(PrivetError):
    """The network, TLS or a key."""


class RunError(PrivetError):
    """A federation that cannot go on."""


class StoppedError(PrivetError):
    """The operator ended what another start goes on with: no fault."""

    exit_code = 0
