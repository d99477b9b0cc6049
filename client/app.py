"""The agent's process: data first, then the connection; drains on SIGTERM; exits 0, 1 or 3."""

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from flwr.app import RecordDict

from privet.client.agent import Agent
from privet.client.data import Records, load_records
from privet.client.ledger import Ledger, ledger_path
from privet.client.link import serve
from privet.common.config import Site
from privet.common.errors import Code, ConfigError, RefusedError, WireError
from privet.common.keys import load_site_key
from privet.common.messages import Reply, ReplyBody, parse_request, to_record
from privet.common.privacy.noise import SecureNoise

LOG = logging.getLogger("privet.client")

Listener = Callable[[dict[str, object]], None]


def run_client(site: Site, on_event: Listener) -> None:
    """Serve the site's federation until it is over, a signal comes, or a plan is refused or lies pending.

    Data faults, a missing key and a second agent are found here, before connecting.
    Raises: DataError, ConfigError, LedgerError, TransportError; RefusedError (exit 3).
    """
    import torch

    torch.set_num_threads(site.resources.threads)
    membership = site.membership
    records = load_records(site, None)
    key = load_site_key(membership.key)
    try:
        ca = membership.ca.read_bytes()
    except OSError:
        name = next(iter(site.federation))
        raise ConfigError(
            "the CA certificate cannot be read.",
            where=f"{membership.ca} (federation.{name}.ca)",
            mend="give the ca.crt that came with the invitation.",
        ) from None
    with Ledger.open(ledger_path(site.data.id), agent=True) as ledger, _stop_on_signals() as stop:
        on_event(_budget(site, ledger))
        agent = _Serving(site, records, ledger, stop, on_event)
        serve(
            address=membership.address,
            ca=ca,
            key=key,
            answer=agent.answer,
            stop=stop,
            on_event=lambda event, text: on_event({"event": "link", "state": str(event), "text": text}),
        )
        on_event(_budget(site, ledger))
        agent.conclude()


class _Serving:
    """Between the link's records and the agent's requests: parses strictly, passes secure noise, ends the process."""

    def __init__(self, site: Site, records: Records, ledger: Ledger, stop: threading.Event, on_event: Listener) -> None:
        self._site, self._ledger, self._stop, self._on_event = site, ledger, stop, on_event
        self._noise = SecureNoise()
        self._agent = Agent(site, records, ledger, self._tell)

    def answer(self, record: RecordDict) -> RecordDict:
        try:
            request = parse_request(record, max_values=self._agent.expected_values)
        except WireError as error:
            self._tell("refused", f"a malformed request: {error}")
            return to_record(Reply(ReplyBody(code=Code.BAD_REQUEST, plan_digest="0" * 64)))
        reply = self._agent.answer(request, self._noise)
        if not self._site.stay and (self._agent.finished or self._agent.held is not None):
            self._stop.set()  # after this reply is on its way
        return to_record(reply)

    def conclude(self) -> None:
        """Raises: RefusedError where the last word on a plan was no, or not yet."""
        held = self._agent.held
        if held is not None and not self._agent.finished:
            waiting = held is Code.PENDING
            raise RefusedError(
                held,
                "the plan lies pending." if waiting else "the plan was refused; the reason stands above.",
                mend="read it, approve it with `privet approve`, start the client again." if waiting else "",
            )

    def _tell(self, kind: str, text: str) -> None:
        self._on_event({"event": kind, "text": text})
        if kind in ("trained", "approved"):
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
def _stop_on_signals() -> Iterator[threading.Event]:
    """SIGTERM and SIGINT ask for an orderly end; a second one ends at once (the ledger is durable at any time)."""
    stop = threading.Event()

    def ask(number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    previous = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
