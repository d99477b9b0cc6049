"""What a data set has spent, durably: plans, reservations, replies; the hash chain and head that guard them."""

from privet.client.ledger.ledger import (
    Charge,
    EventRow,
    Evidence,
    Head,
    Kind,
    Ledger,
    LedgerError,
    New,
    PlanRow,
    Reservation,
    Stored,
    Summary,
    ledger_path,
)

__all__ = [
    "Charge",
    "EventRow",
    "Evidence",
    "Head",
    "Kind",
    "Ledger",
    "LedgerError",
    "New",
    "PlanRow",
    "Reservation",
    "Stored",
    "Summary",
    "ledger_path",
]
