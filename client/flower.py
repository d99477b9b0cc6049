"""The one module of the client that imports Flower's internals; every other one imports them from here.

Written for Flower 1.39, the last release whose sites speak gRPC. `INTERNALS` lists each name taken from below Flower's
public surface; a contract test checks that all of them exist and that nothing else in the tree reaches below it.
"""

# ruff: noqa: I001 - the switches in `quiet` must be set before flwr is imported
from privet.common import quiet as _quiet

from flwr.app import Error, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.client.grpc_rere_client.node_auth_client_interceptor import NodeAuthClientInterceptor
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL, ErrorCode
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.fleet_pb2_grpc import FleetStub
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree, PullObjectRequest, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

_quiet.hush()

__all__ = [
    "HEARTBEAT_DEFAULT_INTERVAL",
    "ActivateNodeRequest",
    "ConfirmMessageReceivedRequest",
    "DeactivateNodeRequest",
    "Error",
    "ErrorCode",
    "FleetStub",
    "GetRunRequest",
    "Message",
    "Node",
    "NodeAuthClientInterceptor",
    "ObjectTree",
    "PullMessagesRequest",
    "PullObjectRequest",
    "PushMessagesRequest",
    "PushObjectRequest",
    "RecordDict",
    "SendNodeHeartbeatRequest",
    "get_all_nested_objects",
    "get_object_tree",
    "inflate_object_from_contents",
    "iterate_object_tree",
    "message_from_proto",
    "message_to_proto",
    "no_object_id_recompute",
    "public_key_to_bytes",
    "remove_content_from_message",
    "seal",
]
_PUBLIC = {"Error", "Message", "RecordDict", "seal"}
INTERNALS = tuple(name for name in __all__ if name not in _PUBLIC)


def seal(message: Message, message_id: str = "") -> str:
    """Write an id into the message's metadata (by default its object id, the hash of its content) and return it."""
    message.metadata.__dict__["_message_id"] = message_id or message.object_id
    return str(message.metadata.message_id)
