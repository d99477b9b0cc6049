"""The agent's process: data first, then a connection for each federation; drains on SIGTERM; exits 0, 1 or 3."""

import logging
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from types import FrameType

from flwr.app import RecordDict

from privet.client import twins
from privet.client.agent import Agent
from privet.client.data import Records, load_records
from privet.client.door import Door, load_door
from privet.client.ledger import Ledger, ledger_path
from privet.client.ledger_evidence import MEND
from privet.client.link import serve
from privet.client.rehearsal import Rehearsals
from privet.client.resources import Hours, attend, reading_within, use_threads
from privet.common.config import Site
from privet.common.errors import Code, RefusedError, TransportError, WireError
from privet.common.live import Listener
from privet.common.messages import Reply, ReplyBody, parse_request, to_record
from privet.common.privacy.noise import SecureNoise
from privet.common.rehearsal import parse_rehearsal

LOG = logging.getLogger("privet.client")


def run_client(site: Site, on_event: Listener) -> None:
    """Serve the site's federations until each is over, a signal comes, or a plan is refused or lies pending.

    Data faults, a missing key, a second agent and a ledger that was put back to an older copy are found here, before
    connecting. One federation that cannot be reached does not stop another.
    Raises: DataError, ConfigError, LedgerError, TransportError; RefusedError (exit 3).
    """
    use_threads(site.resources.threads)
    with reading_within(site.resources.memory_bytes):
        records = load_records(site, None)
    doors = {name: load_door(membership, name) for name, membership in site.federation.items()}
    path = ledger_path(site.data.id)
    with Ledger.open(path, agent=True) as ledger:
        _refuse_behind(ledger)
        twins.note(path, site.data.source, records.texts)
        for line in twins.warnings(path, site.data.source, records.texts):
            on_event({"event": "warning", "text": line})
        on_event(_budget(site, ledger))
        turn = threading.Lock()
        serving = [_Serving(site, name, records, ledger, turn, on_event) for name in doors]
        with _stop_on_signals([one.stop for one in serving]), ThreadPoolExecutor(len(serving)) as pool:
            ends = [pool.submit(one.serve, doors[one.federation]) for one in serving]
            while not all(end.done() for end in ends):  # in short waits: signals are handled in this thread
                wait(ends, timeout=0.2)
        on_event(_budget(site, ledger))
        for end in ends:
            end.result()
        for one in serving:
            one.conclude()


def _refuse_behind(ledger: Ledger) -> None:
    for evidence in ledger.behind():
        raise RefusedError(Code.LEDGER_BEHIND, str(evidence), where="the ledger", mend=MEND)


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

    def answer(self, record: RecordDict) -> RecordDict:
        try:
            rehearsal = parse_rehearsal(record, max_values=self._rehearsals.expected_values)
            if rehearsal is not None:  # neither the agent nor what it holds hears of it
                with self._turn:
                    return to_record(self._rehearsals.answer(rehearsal))
            request = parse_request(record, max_values=self._agent.expected_values)
        except WireError as error:
            self._tell("refused", f"a malformed request: {error}")
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


@contextmanager
def _stop_on_signals(stops: Sequence[threading.Event]) -> Iterator[None]:
    """SIGTERM and SIGINT ask for an orderly end; a second one ends at once (the ledger is durable at any time)."""

    def ask(number: int, _frame: FrameType | None) -> None:
        if asked.is_set():
            os._exit(128 + number)
        asked.set()
        for stop in stops:
            stop.set()

    asked = threading.Event()
    previous = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
