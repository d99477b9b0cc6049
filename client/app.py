"""The agent's process: data first, then a connection for each federation; drains on SIGTERM; exits 0, 1 or 3."""

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

from flwr.app import RecordDict

from privet.client import twins
from privet.client.agent import Agent
from privet.client.audit import SiteAudit
from privet.client.data import Records, load_records
from privet.client.door import Door, load_door
from privet.client.engines import found_in_words, installed, require
from privet.client.exporter import SiteExporter
from privet.client.ledger import Ledger, ledger_path
from privet.client.ledger.evidence import MEND
from privet.client.link import hard_exit, serve
from privet.client.rehearsal import Rehearsals
from privet.client.resources import Hours, attend, reading_within, use_threads
from privet.client.update_size import local_base
from privet.common.config import Site
from privet.common.errors import Code, PrivetError, RefusedError, TransportError, WireError
from privet.common.live import Listener
from privet.common.logs import unforeseen
from privet.common.messages import Reply, ReplyBody, max_request_bytes, parse_request, to_record
from privet.common.privacy.noise import SecureNoise
from privet.common.record import MAX_VALUES
from privet.common.rehearsal import parse_rehearsal

LOG = logging.getLogger("privet.client")

LET_END_SECONDS = 60.0
"""How long a round under way may go on after SIGTERM: with what follows it, less than systemd's 90 s until SIGKILL."""


def run_client(site: Site, on_event: Listener) -> None:
    """Serve the site's federations until each is over, a signal comes, or a plan is refused or lies pending.

    Data faults, a missing key, a second agent and a ledger that was put back to an older copy are found here, before
    connecting. One federation that cannot be reached does not stop another.
    Raises: DataError, ConfigError, LedgerError, TransportError; RefusedError (exit 3).
    """
    use_threads(site.resources.threads)
    with reading_within(site.resources.memory_bytes):
        records = load_records(site, None)
    for line in records.report.source_warnings:
        on_event({"event": "warning", "text": line})
    doors = {name: load_door(membership, name) for name, membership in site.federation.items()}
    path = ledger_path(site.data.id)
    with Ledger.open(path, agent=True) as ledger:
        audit = SiteAudit(path, site.name)
        audit.hold_against(ledger)
        _refuse_behind(ledger)
        _refuse_engine(site, ledger)
        twins.note(path, site.data.origin, records.texts)
        for line in twins.warnings(path, site.data.origin, records.texts):
            on_event({"event": "warning", "text": line})
        with ExitStack() as stack:
            exporter = None if site.metrics is None else stack.enter_context(SiteExporter(site.metrics))
            told = on_event if exporter is None else exporter.beside(on_event)
            told(_budget(site, ledger))
            told({"event": "gradients", "text": found_in_words(site)})
            turn = threading.Lock()
            serving = [_Serving(site, name, records, ledger, turn, told) for name in doors]
            if exporter is not None:
                for one in serving:
                    one.audit.log.observe = exporter.note
            stopping = stack.enter_context(_stop_on_signals([one.stop for one in serving]))
            audit.started(ledger)
            stack.push(lambda _kind, error, _trace: _ended(audit, error, stopping))
            pool = stack.enter_context(ThreadPoolExecutor(len(serving)))
            ends = [pool.submit(one.serve, doors[one.federation]) for one in serving]
            while not all(end.done() for end in ends):  # in short waits: signals are handled in this thread
                wait(ends, timeout=0.2)
                if stopping.since is not None and time.monotonic() - stopping.since > LET_END_SECONDS:
                    _abandon(audit, told)
            told(_budget(site, ledger))
            for end in ends:
                end.result()
            for one in serving:
                one.conclude()


def _ended(audit: SiteAudit, error: BaseException | None, stopping: "_Stopping") -> None:
    """The last line of this process in the audit log.

    Raises: AuditLogError where nothing else went wrong.
    """
    try:
        if error is None:
            audit.stopped("finished" if stopping.since is None else "signal")
        else:
            audit.stopped("refused" if isinstance(error, RefusedError) else "error")
    except PrivetError:
        if error is None:
            raise


def _abandon(audit: SiteAudit, on_event: Listener) -> None:
    """End now, in the middle of a round: its reservation is durable, so it counts as spent and is never run again."""
    with suppress(PrivetError):
        audit.stopped("abandoned")
    on_event({"event": "error", "text": f"a round did not end within {LET_END_SECONDS:g} s: it is left, and is spent."})
    hard_exit(1)


def _refuse_behind(ledger: Ledger) -> None:
    for evidence in ledger.behind():
        raise RefusedError(Code.LEDGER_BEHIND, str(evidence), where="the ledger", mend=MEND)


def _refuse_engine(site: Site, ledger: Ledger) -> None:
    """Of the approved plans, as far as their base is on this machine; for others it shows when they are offered.

    Raises: ConfigError where the site file's engine is not installed, or does not compute such a plan.
    """
    installed(site.resources.engine)
    if site.resources.engine == "opacus":
        return
    for row in ledger.plans():
        if row.admission.decision == "approved" and row.federation in site.federation:
            base = local_base(row.plan, site)
            if base is not None:
                require(site.resources.engine, row.plan, base)


_ENDS = {
    Code.PENDING: ("the plan lies pending.", "read it, approve it with `privet approve`, start the client again."),
    Code.LEDGER_BEHIND: ("the ledger is older than it was; what shows it stands above.", MEND),
}


class _Serving:
    """Between one link's records and the agent's requests: parses strictly, passes secure noise, ends the link.

    turn: held while a request is answered, so that the federations of a site take turns on its machine.
    """

    def __init__(
        self,
        site: Site,
        federation: str,
        records: Records,
        ledger: Ledger,
        turn: threading.Lock,
        on_event: Listener,
    ) -> None:
        self.federation, self.stop = federation, threading.Event()
        self._site, self._ledger, self._turn, self._on_event = site, ledger, turn, on_event
        self._noise = SecureNoise()
        self._agent = Agent(site, federation, records, ledger, self._tell)
        self._rehearsals = Rehearsals(site, federation, self._tell, self.stop)
        self._hours = Hours(site.resources.hours)

    def serve(self, door: Door) -> None:
        """Raises: TransportError; it is told at once, for the other federations go on."""

        def connected(leave: threading.Event) -> None:
            serve(
                address=self._site.federation[self.federation].address,
                ca=door.ca,
                key=door.key,
                proxy=door.proxy,
                reopen=lambda: load_door(self._site.federation[self.federation], self.federation),
                answer=self.answer,
                max_request_bytes=self._max_request_bytes,
                stop=leave,
                on_event=lambda event, text: self._on_event(
                    {"event": "link", "federation": self.federation, "state": str(event), "text": self._named(text)}
                ),
            )

        try:
            attend(self._hours, self.stop, connected, lambda text: self._tell("hours", text))
        except TransportError as error:
            if len(self._site.federation) > 1:
                self._tell("error", str(error))
            raise
        finally:
            self._rehearsals.close()

    def _max_request_bytes(self) -> int:
        """By the plan that is served, or rehearsed; before one is, by the most that any message holds."""
        known = (self._agent.expected_values, self._rehearsals.expected_values)
        values = [one for one in known if one is not None]
        return max_request_bytes(max(values) if values else MAX_VALUES)

    @property
    def audit(self) -> SiteAudit:
        return self._agent.audit

    def answer(self, record: RecordDict) -> RecordDict:
        """Raises: RuntimeError, whose words hold nothing of what went wrong: the link tells them."""
        try:
            return self._answered(record)
        except Exception as error:
            unforeseen(LOG, "unforeseen", error)
            raise RuntimeError(f"{type(error).__name__}; see the log") from None

    def _answered(self, record: RecordDict) -> RecordDict:
        try:
            rehearsal = parse_rehearsal(record, max_values=self._rehearsals.expected_values)
            if rehearsal is not None:  # neither the agent nor what it holds hears of it
                with self._turn:
                    rehearsed = self._rehearsals.answer(rehearsal)
                self.audit.rehearsed(self.federation, rehearsed)
                return to_record(rehearsed)
            request = parse_request(record, max_values=self._agent.expected_values)
        except WireError as error:
            self._tell("refused", f"a malformed request: {error}")
            self.audit.refused("malformed", Code.BAD_REQUEST, federation=self.federation)
            return to_record(Reply(ReplyBody(code=Code.BAD_REQUEST, plan_digest="0" * 64)))
        with self._turn:
            if not self._hours.is_open():  # they ended while another federation had its turn: nothing is begun
                return to_record(Reply(ReplyBody(code=Code.UNAVAILABLE, plan_digest=request.body.plan_digest)))
            self._rehearsals.close()
            reply = self._agent.answer(request, self._noise)
        if not self._site.stay and (self._agent.finished or self._agent.held is not None):
            self.stop.set()  # after this reply is on its way
        return to_record(reply)

    def conclude(self) -> None:
        """Raises: RefusedError where the last word on a plan was no, or not yet."""
        held = self._agent.held
        if held is not None and not self._agent.finished:
            what, mend = _ENDS.get(held, ("the plan was refused; the reason stands above.", ""))
            raise RefusedError(held, what, where=f"federation {self.federation}", mend=mend)

    def _named(self, text: str) -> str:
        return f"{self.federation}: {text}" if len(self._site.federation) > 1 and text else text

    def _tell(self, kind: str, text: str) -> None:
        self._on_event({"event": kind, "federation": self.federation, "text": self._named(text)})
        if kind in ("trained", "evaluated", "approved"):
            self._on_event(_budget(self._site, self._ledger))


def _budget(site: Site, ledger: Ledger) -> dict[str, object]:
    summary = ledger.summary(site)
    return {
        "event": "budget",
        "site": site.name,
        "epsilon": summary.epsilon,
        "spent_epsilon": round(summary.spent_epsilon, 4),
        "reserved_epsilon": summary.reserved_epsilon,
        "left_epsilon": summary.left_epsilon,
        "rounds": summary.num_events,
    }


@dataclass
class _Stopping:
    """When the operator asked for the end (monotonic seconds)."""

    since: float | None = None


@contextmanager
def _stop_on_signals(stops: Sequence[threading.Event]) -> Iterator[_Stopping]:
    """SIGTERM and SIGINT ask for an orderly end; a second one ends at once (the ledger is durable at any time)."""

    def ask(number: int, _frame: FrameType | None) -> None:
        if stopping.since is not None:
            os._exit(128 + number)
        stopping.since = time.monotonic()
        for stop in stops:
            stop.set()

    stopping = _Stopping()
    previous = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stopping
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
