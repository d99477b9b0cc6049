"""Which sites are here, and what each said to the plan."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from privet.common.adapter import Arrays, digest
from privet.common.compression import Compression
from privet.common.config import Plan
from privet.common.errors import Code, WireError
from privet.common.live import Listener
from privet.common.messages import OfferBody, Reply, Request, parse_reply, to_record
from privet.common.privacy.consistency import consistent
from privet.common.privacy.statement import Statement
from privet.server.heads import Heads

_ASK_AGAIN = 20.0  # seconds until a site that could not say yes is asked again
_MAX_DOUBLINGS = 12  # of that time, for a site whose statements had to be checked again: about a day
_AT_ONCE, _REFILL = 20.0, 10.0  # offers to one site in a row; seconds for each further one, however often it restarts
_OFFER_TIMEOUT = 90.0  # seconds; a site builds its model before it answers
_FINAL = {Code.REFUSED_POLICY, Code.BASE_MISMATCH, Code.ADAPTER_MISMATCH, Code.BAD_REQUEST}


@dataclass(frozen=True)
class Verdict:
    """One site's answer to the plan."""

    code: Code
    statement: Statement | None
    asked: float  # monotonic seconds
    session: object = None  # of the site's process that gave it; a new process is asked anew


@dataclass(frozen=True)
class _Offer:
    """An offer that waits for its answer."""

    name: str
    node: int
    until: float  # monotonic seconds
    session: object


class Roster:
    """Offers the plan to every site that is online and keeps the answers by name.

    session_of: tells the processes of one site apart. A site that was started anew is offered the plan before it takes
    part again, with the newest head of its ledger: its ledger may be another one than before.
    """

    def __init__(
        self,
        plan: Plan,
        initial: Arrays,
        name_of: Callable[[int], str],
        on_event: Listener,
        heads: Heads | None = None,
        session_of: Callable[[int], object] = lambda _node: None,
    ) -> None:
        self._plan, self.name_of, self._on_event = plan, name_of, on_event
        self.digest = plan.digest
        self._session_of = session_of
        self._heads = Heads() if heads is None else heads
        self._offer = OfferBody(plan=plan.canonical(), plan_digest=self.digest, adapter_digest=digest(initial))
        self._first = to_record(Request(self._offer))  # for every site that has shown no ledger yet
        self._offers: dict[str, _Offer] = {}  # on their way, by message id
        self._believed: dict[str, Statement] = {}  # the last of each site that was checked and accepted
        self._doubts: dict[str, int] = {}  # checks of each site beyond the one that it needs
        self._left: dict[str, tuple[float, float]] = {}  # offers that each site may have at once, and as of when
        self.verdicts: dict[str, Verdict] = {}
        self.silent: set[str] = set()  # were asked and never answered

    @property
    def statements(self) -> dict[str, Statement]:
        """The privacy statement of each site that agreed."""
        return {name: v.statement for name, v in sorted(self.verdicts.items()) if v.statement is not None}

    def ready(self, grid: Grid) -> dict[str, int]:
        """Name and node of each site that is online and agreed, by name."""
        online = {self.name_of(node): node for node in grid.get_node_ids()}
        return {name: online[name] for name in sorted(online) if self._agreed(name, online[name])}

    def trainers(self, grid: Grid) -> dict[str, int]:
        """Those that are ready and train: not the sites that only evaluate."""
        statements = self.statements
        return {name: node for name, node in self.ready(grid).items() if statements[name].rounds > 0}

    def ask(self, grid: Grid) -> None:
        """Offer the plan to whoever is online and has not agreed, and take in the answers that came by now.

        Nobody waits for a slow site: its answer is taken in by a later call.
        """
        now = time.monotonic()
        for message_id, offer in list(self._offers.items()):
            if now > offer.until:  # gone, or slow: it is asked again
                del self._offers[message_id]
                self.silent.add(offer.name)
                self._on_event({"event": "offer", "site": offer.name, "code": "no_answer"})
        waiting = {offer.name for offer in self._offers.values()}
        asked = [node for node in grid.get_node_ids() if self.name_of(node) not in waiting and self._due(node, now)]
        messages = (grid.create_message(self._offer_to(node), MessageType.QUERY, node, "offer") for node in asked)
        for node, message_id in zip(asked, grid.push_messages(messages), strict=True):
            if message_id:
                self._left[self.name_of(node)] = (self._offers_left(self.name_of(node), now) - 1, now)
                self._offers[message_id] = _Offer(
                    self.name_of(node), node, now + _OFFER_TIMEOUT, self._session_of(node)
                )
        self._collect(grid)

    def heard(self, name: str, reply: Reply | None) -> None:
        """Keep the ledger's head that came with a site's reply.

        Only with the code ok: such a site has seen the head kept here before. The head of one that was put back to an
        older copy, and refuses, must not take its place.
        """
        if reply is not None and reply.code is Code.OK:
            self._heads.note(name, reply.body.head)

    def withdraw(self, name: str, code: Code) -> None:
        """A site that answered a round with a refusal is asked again before it takes part in another."""
        known = self.verdicts[name]
        self.verdicts[name] = Verdict(code, known.statement, time.monotonic(), known.session)

    def _offer_to(self, node: int) -> RecordDict:
        head = self._heads.get(self.name_of(node))
        if head is None:
            return self._first
        return to_record(Request(self._offer.model_copy(update={"head": head})))

    def _agreed(self, name: str, node: int) -> bool:
        verdict = self.verdicts.get(name)
        if verdict is None or verdict.code is not Code.OK or verdict.statement is None:
            return False
        return verdict.session == self._session_of(node)

    def _due(self, node: int, now: float) -> bool:
        name = self.name_of(node)
        verdict, doubts = self.verdicts.get(name), self._doubts.get(name, 0)
        if self._offers_left(name, now) < 1:  # each is told and logged: a site must not fill the disk by coming anew
            return False
        if verdict is None:
            return True
        if doubts and now - verdict.asked <= _ASK_AGAIN * 2.0 ** min(doubts, _MAX_DOUBLINGS):
            return False  # nor if it was started anew: that costs it nothing
        if verdict.session != self._session_of(node):
            return True
        return verdict.code not in _FINAL | {Code.OK} and now - verdict.asked > _ASK_AGAIN

    def _offers_left(self, name: str, now: float) -> float:
        left, since = self._left.get(name, (_AT_ONCE, now))
        return min(_AT_ONCE, left + (now - since) / _REFILL)

    def _collect(self, grid: Grid) -> None:
        for message in grid.pull_messages(list(self._offers)):
            offer = self._offers.pop(message.metadata.reply_to_message_id, None)
            if offer is None:
                continue
            if message.metadata.src_node_id != offer.node:  # nobody agrees for another
                self._settle(offer, Code.UNAVAILABLE, None)
                continue
            reply = sound_reply(message, self.digest, 0)
            self.heard(offer.name, reply)
            code = Code.UNAVAILABLE if reply is None else reply.code
            statement = None if reply is None else reply.body.statement
            if code is Code.OK and statement is None:
                code = Code.UNAVAILABLE
            elif code is Code.OK and statement is not None and not self._believes(offer.name, statement):
                code, statement = Code.BAD_REQUEST, None  # final: what it states will not change by asking
            self._settle(offer, code, statement)

    def _believes(self, name: str, statement: Statement) -> bool:
        """Whether the statement fits the plan and claims no more than its own mechanism gives; if not, it is told.

        A check may take a second or two of the run's own thread. A site that states one thing and keeps to it is
        checked once; after any other check it is not asked for a while, which doubles: see `_due`.
        """
        if not statement.guarantee or self._believed.get(name) == statement:
            return True
        fault = consistent(statement, self._plan)
        if name in self._believed or fault is not None:
            self._doubts[name] = self._doubts.get(name, 0) + 1
        if fault is None:
            self._believed[name] = statement
            return True
        self._on_event({"event": "warning", "text": f"{name}: its privacy statement is not accepted: {fault}."})
        return False

    def _settle(self, offer: _Offer, code: Code, statement: Statement | None) -> None:
        name = offer.name
        known = self.verdicts.get(name)
        self.silent.discard(name)
        stated = statement or (known.statement if known else None)
        self.verdicts[name] = Verdict(code, stated, time.monotonic(), offer.session)
        epsilon = statement.epsilon if statement else None
        self._on_event({"event": "offer", "site": name, "code": str(code), "epsilon": epsilon})


def sound_reply(
    message: Message, plan_digest: str, round: int, *, compression: Compression = "none", max_values: int | None = None
) -> Reply | None:
    """The reply if it is well-formed and answers this plan and round; None for anything else.

    compression, max_values: of its arrays, as in `parse_reply`.
    """
    if message.has_error():
        return None
    try:
        reply = parse_reply(message.content, compression=compression, max_values=max_values)
    except WireError:
        return None
    if reply.body.plan_digest != plan_digest or reply.body.round != round:
        return None
    return reply
