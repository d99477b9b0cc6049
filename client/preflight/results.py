"""One step of the pre-flight: how it ended, in words and for `--json`. For this machine's screen only."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from privet.common.terminal import printable

Numbers = Mapping[str, int | float | str | None]
_MAX_CHARACTERS = 2_000


class Status(StrEnum):
    """How a step ended."""

    PASSED = "passed"
    WARNING = "warning"  # the client would start; somebody should look at this
    FAILED = "failed"
    SKIPPED = "skipped"  # an earlier step makes this one meaningless, or it was not asked for


@dataclass(frozen=True)
class Step:
    """One step. What others said (a certificate's names, a proxy's answer) may be in the words: it is made printable
    here, on one line, so that it cannot steer a terminal or pass for a step of its own."""

    step: str
    status: Status
    what: str
    mend: str = ""
    federation: str | None = None
    numbers: Numbers = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("what", "mend"):
            object.__setattr__(self, name, _line(getattr(self, name)))

    def __str__(self) -> str:
        about = f"{self.federation}: {self.step}" if self.federation else self.step
        mend = f" Mend: {self.mend}" if self.mend else ""
        return f"{self.status.upper():7}  {about}: {self.what}{mend}"

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self) | {"status": str(self.status), "numbers": dict(self.numbers)}


def failed(steps: Sequence[Step]) -> bool:
    """Whether a step failed."""
    return any(step.status is Status.FAILED for step in steps)


def verdict(steps: Sequence[Step]) -> str:
    """The last line: what all steps come to."""
    count = {status: sum(step.status is status for step in steps) for status in Status}
    told = ", ".join(f"{number} {status}" for status, number in count.items() if number)
    if count[Status.FAILED]:
        return f"FAILED: {told}. Mend what failed, then run `privet check` again."
    if count[Status.WARNING]:
        return f"PASSED with warnings: {told}."
    return f"PASSED: {told}."


def _line(text: str) -> str:
    return printable(" ".join(text.split()), _MAX_CHARACTERS)
