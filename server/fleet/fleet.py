"""The server's end of the wire: one TLS port, the sites allowed in, and a Grid for the one run at a time."""

import os
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from privet.common.errors import RunError, TransportError
from privet.server.fleet.authentication import Gatekeeper
from privet.server.fleet.crowd import CallLimit
from privet.server.fleet.flower import (
    NOOP_ACCOUNT_NAME,
    NOOP_FEDERATION_ID,
    NOOP_FLWR_AID,
    SUPERLINK_NODE_ID,
    LinkState,
    LinkStateFactory,
    NodeStatus,
    NoOpFederationManager,
    ObjectStoreFactory,
    RpcErrorTranslationServerInterceptor,
    Status,
    SubStatus,
    TaskIdentity,
    TaskType,
    bytes_to_public_key,
    close_database,
    public_key_to_bytes,
)
from privet.server.fleet.grid import FleetGrid
from privet.server.fleet.health import health_handler
from privet.server.fleet.listener import Listener
from privet.server.fleet.refusals import Refusals, RefusedKey
from privet.server.fleet.service import FleetService
from privet.server.fleet.store import MemoryStore
from privet.server.fleet.traffic import Traffic

_TASK_HEARTBEAT_SECONDS = 15.0  # Flower fails a run whose task is silent for 60 s
_one_run = threading.Lock()  # Flower keeps the identity of the run in a global of the process


class Fleet:
    """Flower's Fleet service over TLS for the sites whose keys are allowed.

    The database keeps node ids across restarts; tensors stay in memory. `enrol` may be called at any time; the Grid of
    `run` belongs to one thread.
    """

    port: int
    """The bound port; the one asked for until `start`."""

    def __init__(
        self,
        *,
        address: str,
        certificates: tuple[bytes, bytes, bytes],
        database: Path,
        allowed: Mapping[bytes, str],
        max_message_bytes: int = 8 << 20,
        max_reply_bytes: int = 512 << 20,
        on_refusal: Callable[[RefusedKey], None] = lambda _: None,
    ) -> None:
        """Nothing is opened before `start`.

        Args:
            address: "host:port" to listen at; port 0 picks a free one.
            certificates: PEM of the CA, of the server's certificate and of its private key.
            database: Flower's SQLite file; created if absent, readable by its owner only.
            allowed: public key (PEM) of each allowed site -> its name.
            max_message_bytes: most bytes of one RPC; Flower cuts arrays into objects of 5 MB.
            max_reply_bytes: most bytes of one reply, inflated, and of all that a site has in memory until it is
                collected. May be set anew at any time: a run sets it to what its plan needs.
            on_refusal: told, in a thread of its own, of keys that were refused; see `Refusals` for how often.

        Raises:
            TransportError: a key is not an EC P-384 public key.
        """
        self._address, self._certificates, self._database = address, certificates, database
        self._max_message_bytes, self.max_reply_bytes = max_message_bytes, max_reply_bytes
        self._allowed = _checked(allowed)
        self._nodes: dict[bytes, int] = {}  # allowed key -> node id
        self._names: dict[int, str] = {}  # of every site that is or was allowed
        self._owners: dict[bytes, str] = {}  # key -> name, of every site that is or was allowed
        self._enrolling = threading.Lock()
        self._refusals = Refusals(on_refusal, lambda key: self._owners.get(key))
        self._seen_version = 0
        self._listener: Listener | None = None
        self.state: LinkState | None = None
        self.store = MemoryStore()
        self.traffic = Traffic(self.store.delete)
        self.port = int(address.rpartition(":")[2]) if address.rpartition(":")[2].isdigit() else 0

    # Life

    def start(self) -> None:
        """Open the database and the port.

        Raises:
            TransportError: the address cannot be bound, a certificate or the database cannot be used.
        """
        objects = ObjectStoreFactory()
        objects.store_instance = self.store
        factory = LinkStateFactory(str(self._database), NoOpFederationManager(), objects)
        self.state = self._open(factory)
        try:
            self._end_old_runs()
            self.enrol(self._allowed)
            service = FleetService(factory, objects, self.store, self.traffic, lambda: self.max_reply_bytes)
            gatekeeper = Gatekeeper(factory, lambda: self._nodes, self._refusals)
            self._listener = Listener(
                self._address,
                self._certificates,
                service,
                [CallLimit(), RpcErrorTranslationServerInterceptor(), gatekeeper],
                self._max_message_bytes,
                [health_handler(lambda: self.closing)],
            )
        except BaseException:
            close_database(self.state)
            raise
        self.port = self._listener.port
        self._refusals.start()
        self._listener.start()

    def close(self) -> None:
        """Stop serving, wake a Grid that waits, close the database. Safe to call twice."""
        self.traffic.close()
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            self._refusals.close()
        if self.state is not None:
            close_database(self.state)

    def renew(self, certificates: tuple[bytes, bytes, bytes]) -> None:
        """Show another certificate to whoever connects from now on.

        Raises:
            TransportError: the certificate is not for the key; the one shown so far stays.
        """
        if self._listener is not None:
            self._listener.renew(certificates)

    @property
    def closing(self) -> bool:
        """Whether `close` was called."""
        return self.traffic.closing

    # Sites

    def enrol(self, allowed: Mapping[bytes, str]) -> None:
        """Replace the allow-list; sites no longer on it are cut off at once. The same list again changes nothing.

        The rows of sites cut off stay in the database: Flower never lets a deleted key in again.

        Raises:
            TransportError: a key is not an EC P-384 public key.
        """
        allowed = _checked(allowed)
        with self._enrolling:
            if allowed == self._allowed and self._nodes.keys() == allowed.keys():
                return
            self._allowed = allowed
            if self.state is None:
                return
            rows = self.state.get_node_info()
            known = {node.public_key: node.node_id for node in rows}
            owners = {node.public_key: node.name for node in rows if node.name}
            for key, name in self._allowed.items():
                if key not in known:
                    known[key] = self.state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, key, 0, name=name)
                self._names[known[key]] = name
            self._owners = owners | self._allowed
            self._nodes = {key: known[key] for key in self._allowed}
            for key, node_id in known.items():
                if key not in self._nodes:
                    self.state.deactivate_node(node_id)
            self.traffic.allow(self._nodes.values())

    def name_of(self, node_id: int) -> str:
        """The name of a site that is or was allowed.

        Raises:
            KeyError: no such site.
        """
        return self._names[node_id]

    def online(self) -> dict[int, str]:
        """node id -> name of the sites that are connected and allowed."""
        if self.state is None:
            return {}
        nodes = self.state.get_node_info(statuses=[NodeStatus.ONLINE])
        return {node.node_id: self._names[node.node_id] for node in nodes if node.node_id in self.traffic.allowed}

    @property
    def num_refused(self) -> int:
        """Calls by keys that are not on the allow-list, since the start."""
        return self._refusals.total

    def wait_for_change(self, timeout: float) -> None:
        """Return when a site came, left or replied since the last call, or after `timeout` seconds. For one thread."""
        self.traffic.wait(self._seen_version, timeout)
        self._seen_version = self.traffic.version

    # Runs

    @contextmanager
    def run(self) -> Iterator[FleetGrid]:
        """A run of Flower's and the Grid to talk to sites in it; one at a time in a process.

        Raises:
            RunError: another run is under way in this process, or the server is not started.
        """
        state = self.state
        if state is None:
            raise RunError("The server is not started.", mend="Call Fleet.start first.")
        if not _one_run.acquire(blocking=False):
            raise RunError("A run is already under way in this process.", mend="End it first.")
        try:
            run_id = state.create_run(
                None, None, None, {}, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID, TaskType.SERVER_APP
            )
            task = state.get_run_info(run_ids=[run_id])[0].primary_task_id
            state.claim_task(task)
            state.activate_task(task)
            TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = task, run_id, SUPERLINK_NODE_ID
            over = threading.Event()
            heartbeat = threading.Thread(target=self._keep_alive, args=(task, over), name="run heartbeat", daemon=True)
            heartbeat.start()
            outcome = SubStatus.FAILED
            try:
                yield FleetGrid(self, state.get_run_info(run_ids=[run_id])[0])
                outcome = SubStatus.COMPLETED
            finally:
                over.set()
                heartbeat.join()
                state.finish_task(task, outcome, "")
                state.cleanup_run(run_id)
                self.traffic.reset()
        finally:
            _one_run.release()

    def _keep_alive(self, task: int, over: threading.Event) -> None:
        while not over.wait(_TASK_HEARTBEAT_SECONDS):
            if self.state is not None:
                self.state.acknowledge_task_heartbeat(task)

    # Opening

    def _open(self, factory: LinkStateFactory) -> LinkState:
        try:
            self._database.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(self._database, os.O_CREAT | os.O_RDWR, 0o600))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of Alembic, about Flower's migrations
                return factory.state()
        except Exception as error:  # the file system's, SQLite's or the migrations' own
            raise TransportError(
                "The server's database cannot be opened.",
                where=str(self._database),
                mend="Check the folder's rights. If a newer Flower wrote the file, move it away: sites keep their keys "
                "and come back under new ids.",
            ) from error

    def _end_old_runs(self) -> None:
        """What a killed server left: its runs are over, and no site counts as present before it speaks again."""
        state = self.state
        assert state is not None
        for run in state.get_run_info(statuses=[Status.PENDING, Status.STARTING, Status.RUNNING]):
            state.finish_task(run.primary_task_id, SubStatus.FAILED, "server restarted")
            state.cleanup_run(run.run_id)
        for node in state.get_node_info(statuses=[NodeStatus.ONLINE]):
            state.deactivate_node(node.node_id)


def _checked(allowed: Mapping[bytes, str]) -> dict[bytes, str]:
    """The allow-list with each key in the exact form in which sites send it."""
    result = {}
    for pem, name in allowed.items():
        try:
            key = bytes_to_public_key(pem)
        except ValueError:
            key = None
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp384r1":
            raise TransportError(
                "This is not an EC P-384 public key.",
                where=f"the key of {name}",
                mend="Enrol the .pub file that `privet init site` wrote.",
            )
        result[public_key_to_bytes(key)] = name
    return result
