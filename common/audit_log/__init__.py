"""The audit log: hash-chained JSON lines of what happened at a site or a server, each of a known schema."""

from privet.common.audit_log.entries import ENTRIES, Entry
from privet.common.audit_log.lines import GENESIS, AuditLogError, BadLine, Line, parse_line
from privet.common.audit_log.log import AuditLog
from privet.common.audit_log.reading import Torn, Verified, read

__all__ = [
    "ENTRIES",
    "GENESIS",
    "AuditLog",
    "AuditLogError",
    "BadLine",
    "Entry",
    "Line",
    "Torn",
    "Verified",
    "parse_line",
    "read",
]
