"""What is used of Flower below its public surface exists, behaves as relied on, and is imported in two files."""

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from privet.client import flower as client_flower
from privet.common.inflation import inflated_bytes
from privet.server.fleet import flower as server_flower
from privet.server.fleet.store import MemoryStore

ROOT = Path(__file__).resolve().parents[2]
PUBLIC = {"flwr", "flwr.app", "flwr.serverapp", "flwr.serverapp.strategy", "flwr.clientapp"}
ALLOWED = {Path("server/fleet/flower.py"), Path("client/flower.py")}


def imports(tree: ast.AST) -> Iterator[str]:
    """Every module that a file imports, in whatever way."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("flwr."):
            yield node.value  # importlib.import_module("flwr.…")


def reaches_below(source: str) -> list[str]:
    """Modules below Flower's public surface that a file imports."""
    return [name for name in imports(ast.parse(source)) if name.split(".")[0] == "flwr" and name not in PUBLIC]


def test_the_scan_sees_every_way_of_importing() -> None:
    for source in (
        "import flwr.common",
        "from flwr.proto.node_pb2 import Node",
        "def f():\n    from flwr.supercore import x",
        "import importlib; importlib.import_module('flwr.server.compat')",
    ):
        assert reaches_below(source), source
    assert not reaches_below("from flwr.app import Message\nfrom flwr.serverapp import Grid\nimport numpy")


def test_only_two_modules_reach_below_flowers_surface() -> None:
    files = [path for room in ("client", "common", "server", "simulations") for path in (ROOT / room).rglob("*.py")]
    offenders = {
        str(path.relative_to(ROOT)): below
        for path in files
        if path.relative_to(ROOT) not in ALLOWED and (below := reaches_below(path.read_text()))
    }
    assert len(files) > 20
    assert not offenders


@pytest.mark.parametrize("module", [server_flower, client_flower], ids=["server", "client"])
def test_every_internal_exists(module: object) -> None:
    names = module.INTERNALS  # type: ignore[attr-defined]
    assert len(names) > 20
    assert [name for name in names if not hasattr(module, name)] == []


@pytest.mark.parametrize(
    ("owner", "methods"),
    [
        (
            "FleetServicer",
            "ActivateNode DeactivateNode SendNodeHeartbeat PullMessages PushMessages PullObject PushObject "
            "ConfirmMessageReceived RegisterNode UnregisterNode GetRun GetFab",
        ),
        ("NodeAuthServerInterceptor", "intercept_service _wrap_method_handler"),
        (
            "LinkState",
            "create_node deactivate_node get_node_info get_node_id_by_public_key acknowledge_node_heartbeat "
            "create_run get_run_info claim_task activate_task finish_task acknowledge_task_heartbeat cleanup_run "
            "store_message_ins get_message_ins store_message_res get_message_res delete_messages",
        ),
        ("Grid", "set_run run create_message get_node_ids push_messages pull_messages send_and_receive"),
    ],
)
def test_methods_that_are_called_or_overridden_exist(owner: str, methods: str) -> None:
    cls = getattr(server_flower, owner)
    assert [name for name in methods.split() if not hasattr(cls, name)] == []


def test_fleet_service_has_no_rpc_that_is_not_guarded() -> None:
    from privet.server.fleet.service import FleetService

    rpcs = {
        name
        for base in server_flower.FleetServicer.__mro__[:2]
        for name, value in vars(base).items()
        if name[0].isupper() and callable(value)
    }
    assert rpcs
    assert rpcs <= vars(FleetService).keys()


def test_stub_offers_every_call_the_site_makes() -> None:
    import grpc

    channel = grpc.insecure_channel("127.0.0.1:9")
    stub = client_flower.FleetStub(channel)
    channel.close()
    calls = "ActivateNode DeactivateNode SendNodeHeartbeat PullMessages PullObject ConfirmMessageReceived PushMessages"
    assert [name for name in [*calls.split(), "PushObject"] if not hasattr(stub, name)] == []


def test_store_has_all_that_flower_asks_of_one() -> None:
    assert not inspect.isabstract(MemoryStore)


def test_object_format_is_the_one_that_inflation_reads() -> None:
    values = np.arange(3_000_000, dtype="<f4")  # 12 MB: three chunks of at most 5 MB
    arrays = ArrayRecord({"w": Array(values), "zero": Array(values * 0)})
    record = RecordDict({"a": arrays, "c": ConfigRecord({"k": 1})})
    contents = {key: part.deflate() for key, part in server_flower.get_all_nested_objects(record).items()}
    joined = sum(len(bytes(array.data)) for array in arrays.values())
    assert inflated_bytes(contents) == sum(map(len, contents.values())) + joined + _chunk_heads(contents)


def _chunk_heads(contents: dict[str, bytes]) -> int:
    """Bytes of the chunks' heads, which the estimate counts with each use of a chunk."""
    import json

    total = 0
    for content in contents.values():
        head, _, body = content.partition(b"\x00")
        kind, children, _ = head.decode().split(" ")
        if kind == "Array":
            for index in json.loads(body)["arraychunk_ids"]:
                total += contents[children.split(",")[index]].index(b"\x00") + 1
    return total


def test_seal_writes_the_id_into_the_metadata() -> None:
    server_flower.TaskIdentity.run_id, server_flower.TaskIdentity.node_id = 1, server_flower.SUPERLINK_NODE_ID
    server_flower.TaskIdentity.task_id = 1
    message = Message(RecordDict({}), 7, "train")
    assert message.metadata.message_id == ""
    assert server_flower.seal(message) == message.object_id == message.metadata.message_id
