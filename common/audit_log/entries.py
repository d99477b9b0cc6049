"""What may stand in an audit log: for each kind of entry its fields, and no others.

Every field is a number, a digest, a code, or a name of a fixed form: none can hold a text of the data, a label, a
count of records, a path, or an error's words.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from privet.common.config.table import Name, Table
from privet.common.errors import Code

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Number = Annotated[int, Field(ge=0, le=2**53)]
Amount = Annotated[float, Field(ge=0, le=1e9)]
User = Annotated[str, Field(pattern=r"^[A-Za-z0-9._@$-]{1,64}$")]  # of this machine: who gave the command
Version = Annotated[str, Field(pattern=r"^[0-9A-Za-z.+!-]{1,40}$")]
Fingerprint = Annotated[str, Field(pattern=r"^SHA256:[A-Za-z0-9+/]{43}$")]
RunName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,120}$")]
Names = tuple[Name, ...]
RequestKind = Literal["offer", "train", "evaluate", "finish", "malformed", "approve"]


class Entry(Table):
    """The fields of one kind of entry; `kind` names it in the log."""

    kind: ClassVar[str]


# Of the log itself


class Begun(Entry):
    """The first entry: whose log this is."""

    kind = "begun"
    role: Literal["site", "server"]
    name: Name
    random: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]  # no two logs share a hash


class Repaired(Entry):
    """A writer was killed before its line was whole; what stands between is no entry."""

    kind = "repaired"
    torn_bytes: Annotated[int, Field(ge=1)]
    torn_sha256: Digest


# Of both sides


class Started(Entry):
    """A process begins to serve."""

    kind = "started"
    program: Literal["client", "server"]
    version: Version
    pid: Number
    user: User


class Stopped(Entry):
    """It ends in order. `abandoned`: in the middle of a round, which counts as spent."""

    kind = "stopped"
    program: Literal["client", "server"]
    pid: Number
    reason: Literal["finished", "signal", "refused", "error", "abandoned"]


class Refused(Entry):
    """A request or plan that got no; at a server, a site's no."""

    kind = "refused"
    request: RequestKind
    code: Code
    federation: Name | None = None
    site: Name | None = None  # at a server
    plan: Digest | None = None
    round: Number = 0
    user: User | None = None  # who asked, on this machine
    unlogged: Number = 0  # lines about requests before this one that were left out: there were too many in an hour


# Of a site


class Pending(Entry):
    """A plan that was offered waits for the operator."""

    kind = "pending"
    federation: Name
    plan: Digest
    unlogged: Number = 0


class Approved(Entry):
    """A plan was approved: its whole horizon is reserved."""

    kind = "approved"
    federation: Name
    plan: Digest
    by: Literal["operator", "first-use"]
    user: User
    epsilon: Amount
    delta: Amount
    rounds: Number
    evaluations: Number


class Released(Entry):
    """What is about to leave: written, durably, before it is sent."""

    kind = "released"
    federation: Name
    plan: Digest
    what: Literal["statement", "update", "metrics"]
    round: Number  # of training, or the number of the evaluation; 0 for a statement
    event: Number  # in the ledger; 0 for a statement
    reply_sha256: Digest  # of the stored reply, as in the ledger; of a statement, of its canonical JSON
    num_bytes: Number  # of all arrays, or of the statement
    unlogged: Number = 0


class Replayed(Released):
    """What was released before is about to leave again, unchanged."""

    kind = "replayed"


class Rehearsed(Entry):
    """An answer in a rehearsal is about to leave: of generated text, and nothing was spent."""

    kind = "rehearsed"
    federation: Name
    plan: Digest
    round: Number  # 0 for the offer and the end
    code: Code
    num_bytes: Number  # of all arrays
    unlogged: Number = 0


class Found(Entry):
    """The ledger holds what this log has no line of: from before the log, or a line was not written."""

    kind = "found"
    plan: Digest
    what: Literal["plan", "update", "metrics"]
    round: Number = 0
    event: Number = 0
    reply_sha256: Digest | None = None


class PlanFinished(Entry):
    """The server says that a plan is over."""

    kind = "plan_finished"
    federation: Name
    plan: Digest
    unlogged: Number = 0


class Charged(Entry):
    """What a ledger may have forgotten was counted as spent."""

    kind = "charged"
    epsilon: Amount
    delta: Amount
    lost: Number  # rounds and evaluations closed
    user: User


# Of a server


class Enrolled(Entry):
    """A site's key is let in."""

    kind = "enrolled"
    site: Name
    key: Fingerprint


class Removed(Entry):
    """A site's key is let in no longer."""

    kind = "removed"
    site: Name
    key: Fingerprint


class Opened(Entry):
    """A plan is run from here on."""

    kind = "opened"
    federation: Name
    plan: Digest
    rounds: Number


class Agreed(Entry):
    """A site takes part, with this (stated) epsilon."""

    kind = "agreed"
    site: Name
    plan: Digest
    epsilon: Amount | None = None


class RoundStarted(Entry):
    """These sites are asked for an update."""

    kind = "round_started"
    plan: Digest
    round: Number
    cohort: Names


class EvaluationEnded(Table):
    """What came of asking for metrics."""

    number: Number
    answered: Names
    missing: Names
    failed: dict[Name, Code]
    left_out: Names = ()


class RoundEnded(Entry):
    """What came of a round."""

    kind = "round_ended"
    plan: Digest
    round: Number
    answered: Names
    missing: Names
    failed: dict[Name, Code]
    aggregated: bool
    bytes_down: Number
    bytes_up: Number
    evaluation: EvaluationEnded | None = None


class Finished(Entry):
    """The run's result is written: what the server releases."""

    kind = "finished"
    plan: Digest
    rounds: Number
    run: RunName  # the run folder's name
    adapter_sha256: Digest | None = None  # of adapter/adapter_model.safetensors


ENTRIES: dict[str, type[Entry]] = {
    entry.kind: entry
    for entry in (
        *(Begun, Repaired, Started, Stopped, Refused),
        *(Pending, Approved, Released, Replayed, Rehearsed, Found, PlanFinished, Charged),
        *(Enrolled, Removed, Opened, Agreed, RoundStarted, RoundEnded, Finished),
    )
}
