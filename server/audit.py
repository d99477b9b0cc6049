"""The server's audit log, fed by the events of a run: whose keys are let in, who was asked, what came back."""

import hashlib
import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from privet.common.audit_log import AuditLog, Entry, read
from privet.common.audit_log.entries import (
    Agreed,
    Enrolled,
    Finished,
    Opened,
    Refused,
    Removed,
    RoundEnded,
    RoundStarted,
    Started,
    Stopped,
)
from privet.common.config import Plan
from privet.common.errors import Code, PrivetError
from privet.common.keys import fingerprint
from privet.common.operator import user

_SILENT = "no_answer"


class ServerAudit:
    """Writes `state/audit.jsonl`. What it cannot write ends the run: an event untold is one that may be denied."""

    def __init__(self, state: Path, plan: Plan) -> None:
        """Read and verify the log so far.

        Raises: AuditLogError.
        """
        self._plan = plan
        self.log = AuditLog(state / "audit.jsonl", role="server", name=plan.name)
        entries = [line.entry() for line in read(self.log.path).lines] if self.log.path.exists() else []
        self._keys = _let_in(entries)  # fingerprint -> site
        self._verdicts: dict[str, str] = {}  # the last of each site that stands in the log

    def started(self) -> None:
        """Raises: AuditLogError."""
        self.log.append(Started(program="server", version=version("privet"), pid=os.getpid(), user=user()))

    def stopped(self, error: BaseException | None) -> None:
        """The last line of this process; `error` is what ended it.

        Raises: AuditLogError where nothing else went wrong.
        """
        by_signal = isinstance(error, KeyboardInterrupt)
        reason = "finished" if error is None else "signal" if by_signal else "error"
        try:
            self.log.append(Stopped.model_validate({"program": "server", "pid": os.getpid(), "reason": reason}))
        except PrivetError:
            if error is None:
                raise

    def enrolled(self, sites: Mapping[bytes, str]) -> None:
        """The sites let in from now on, by public key (PEM); only what changed is written.

        Raises: AuditLogError.
        """
        now = {_fingerprint(pem): name for pem, name in sites.items()}
        for key, name in self._keys.items():
            if now.get(key) != name:
                self.log.append(Removed(site=name, key=key))
        for key, name in now.items():
            if self._keys.get(key) != name:
                self.log.append(Enrolled(site=name, key=key))
        self._keys = now

    def feed(self, event: dict[str, Any]) -> None:
        """Take one event of the run.

        Raises: AuditLogError.
        """
        handler = getattr(self, f"_on_{event['event']}", None)
        if handler is not None:
            handler(event)

    def _on_started(self, event: dict[str, Any]) -> None:
        self.log.append(Opened(federation=self._plan.name, plan=self._plan.digest, rounds=event["rounds"]))

    def _on_offer(self, event: dict[str, Any]) -> None:
        site, said = str(event["site"]), str(event["code"])
        verdict = f"{said} {event.get('epsilon')}"
        if self._verdicts.get(site) == verdict or said == _SILENT:
            return  # a site is asked again and again
        self._verdicts[site] = verdict
        plan = self._plan.digest
        if said == Code.OK:
            self.log.append(Agreed(site=site, plan=plan, epsilon=event.get("epsilon")))
        else:
            self.log.append(Refused(request="offer", code=Code(said), site=site, plan=plan))

    def _on_round_started(self, event: dict[str, Any]) -> None:
        self.log.append(RoundStarted(plan=self._plan.digest, round=event["round"], cohort=tuple(event["cohort"])))

    def _on_round(self, event: dict[str, Any]) -> None:
        names = ("round", "answered", "missing", "failed", "aggregated", "bytes_down", "bytes_up", "evaluation")
        self._append(RoundEnded, {"plan": self._plan.digest, **{name: event[name] for name in names}})

    def _on_finished(self, event: dict[str, Any]) -> None:
        run = Path(str(event["run"]))
        weights = run / "adapter" / "adapter_model.safetensors"
        digest = hashlib.sha256(weights.read_bytes()).hexdigest() if weights.exists() else None
        done = {"plan": self._plan.digest, "rounds": event["rounds"], "run": run.name, "adapter_sha256": digest}
        self._append(Finished, done)

    def _append(self, kind: type[Entry], fields: dict[str, Any]) -> None:
        self.log.append(kind.model_validate(fields, strict=False))


def _let_in(entries: list[Entry]) -> dict[str, str]:
    """Who is let in after these entries: site by its key's fingerprint."""
    keys: dict[str, str] = {}
    for entry in entries:
        if isinstance(entry, Enrolled):
            keys[entry.key] = entry.site
        elif isinstance(entry, Removed):
            keys.pop(entry.key, None)
    return keys


def _fingerprint(pem: bytes) -> str:
    key = load_pem_public_key(pem)
    assert isinstance(key, ec.EllipticCurvePublicKey)  # as `load_sites` gives them
    return fingerprint(key)
