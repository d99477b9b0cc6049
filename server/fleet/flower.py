"""The one module of the server that imports Flower's internals; every other one imports them from here.

Written for Flower 1.39. `INTERNALS` lists each name taken from below Flower's public surface (`flwr.app`,
`flwr.serverapp`); a contract test checks that all of them exist and that nothing else in the tree reaches below it.
"""

# ruff: noqa: I001 - the switches in `quiet` must be set before flwr is imported
from privet.common import quiet as _quiet

from flwr.app import DEFAULT_TTL, Error, Message, Metadata, RecordDict
from flwr.app.message import make_message, remove_content_from_message
from flwr.common.constant import (
    HEARTBEAT_DEFAULT_INTERVAL,
    NOOP_ACCOUNT_NAME,
    NOOP_FLWR_AID,
    PUBLIC_KEY_HEADER,
    SIGNATURE_HEADER,
    SUPERLINK_NODE_ID,
    TIMESTAMP_HEADER,
    ErrorCode,
    Status,
    SubStatus,
)
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    ActivateNodeResponse,
    DeactivateNodeRequest,
    DeactivateNodeResponse,
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
    PushMessagesResponse,
)
from flwr.proto.fleet_pb2_grpc import add_FleetServicer_to_server
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest, SendNodeHeartbeatResponse
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ConfirmMessageReceivedResponse,
    ObjectTree,
    PullObjectRequest,
    PullObjectResponse,
    PushObjectRequest,
    PushObjectResponse,
)
from flwr.proto.node_pb2 import NodeInfo
from flwr.server.superlink.fleet.grpc_rere.fleet_servicer import FleetServicer
from flwr.server.superlink.fleet.grpc_rere.node_auth_server_interceptor import NodeAuthServerInterceptor
from flwr.server.superlink.linkstate import LinkState, LinkStateFactory
from flwr.serverapp import Grid
from flwr.supercore.constant import NOOP_FEDERATION_ID, NodeStatus, TaskType
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_id,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents, validate_object_content
from flwr.supercore.interceptors import RpcErrorTranslationServerInterceptor
from flwr.supercore.object_store import NoObjectInStoreError, ObjectStore, ObjectStoreFactory
from flwr.supercore.primitives.asymmetric import bytes_to_public_key, public_key_to_bytes, verify_signature
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.supercore.utils import get_metadata_bytes, get_metadata_str
from flwr.superlink.federation import NoOpFederationManager

_quiet.hush()

__all__ = [
    "DEFAULT_TTL",
    "HEARTBEAT_DEFAULT_INTERVAL",
    "NOOP_ACCOUNT_NAME",
    "NOOP_FEDERATION_ID",
    "NOOP_FLWR_AID",
    "PUBLIC_KEY_HEADER",
    "SIGNATURE_HEADER",
    "SUPERLINK_NODE_ID",
    "TIMESTAMP_HEADER",
    "ActivateNodeRequest",
    "ActivateNodeResponse",
    "ConfirmMessageReceivedRequest",
    "ConfirmMessageReceivedResponse",
    "DeactivateNodeRequest",
    "DeactivateNodeResponse",
    "Error",
    "ErrorCode",
    "FleetServicer",
    "Grid",
    "LinkState",
    "LinkStateFactory",
    "Message",
    "Metadata",
    "NoObjectInStoreError",
    "NoOpFederationManager",
    "NodeAuthServerInterceptor",
    "NodeInfo",
    "NodeStatus",
    "ObjectStore",
    "ObjectStoreFactory",
    "ObjectTree",
    "PullMessagesRequest",
    "PullMessagesResponse",
    "PullObjectRequest",
    "PullObjectResponse",
    "PushMessagesRequest",
    "PushMessagesResponse",
    "PushObjectRequest",
    "PushObjectResponse",
    "RecordDict",
    "RpcErrorTranslationServerInterceptor",
    "Run",
    "SendNodeHeartbeatRequest",
    "SendNodeHeartbeatResponse",
    "Status",
    "SubStatus",
    "TaskIdentity",
    "TaskType",
    "add_FleetServicer_to_server",
    "bytes_to_public_key",
    "close_database",
    "get_all_nested_objects",
    "get_metadata_bytes",
    "get_metadata_str",
    "get_object_id",
    "get_object_tree",
    "inflate_object_from_contents",
    "iterate_object_tree",
    "make_message",
    "message_from_proto",
    "message_to_proto",
    "no_object_id_recompute",
    "public_key_to_bytes",
    "remove_content_from_message",
    "seal",
    "validate_object_content",
    "verify_signature",
]
_PUBLIC = {"DEFAULT_TTL", "Error", "Grid", "Message", "Metadata", "RecordDict", "close_database", "seal"}
INTERNALS = tuple(name for name in __all__ if name not in _PUBLIC)


def seal(message: Message) -> str:
    """Write the message's object id, the hash of its content, into its metadata as its id, and return it."""
    message.metadata.__dict__["_message_id"] = message.object_id
    return str(message.object_id)


def close_database(state: LinkState) -> None:
    """Close the link state's database connections; Flower offers no way to do so."""
    if state._engine is not None:
        state._engine.dispose()
