"""The ledger's tables and the triggers by which the database itself refuses to forget.

Only a plan that was never approved may make room for others. All else grows and stays, and every change of it stands
in table `chain` as well (chain.py).
"""

from privet.common.errors import PrivetError

SCHEMA = 5  # PRAGMA user_version
APPLICATION = 0x70727674  # PRAGMA application_id: "prvt"
DAMAGED = "do not delete it, for it holds what has been spent: restore the newest sound copy."

ADDED_BY_2 = (  # to the table of plans, in the order in which they were added
    "unit_column TEXT",  # data.unit of the site file at the judgement; NULL where schema 1 did not keep it
    "evaluation TEXT CHECK (evaluation IS NULL OR json_valid(evaluation))",
    "num_evaluations INTEGER NOT NULL DEFAULT 0 CHECK (num_evaluations >= 0)",
    "entry INTEGER",  # of the chain: the approval
)
ADDED_BY_3 = (  # data.person and data.max_per_person of the site file at the judgement; NULL: no limit, or none known
    "person TEXT",
    "max_per_person INTEGER CHECK ((max_per_person IS NULL) = (person IS NULL) AND ifnull(max_per_person >= 1, 1))",
)
ADDED_BY_4 = (  # whether all units judge and none trains
    "evaluate_only INTEGER NOT NULL DEFAULT 0 CHECK (evaluate_only IN (0, 1) AND evaluate_only <= num_evaluations)",
)
ADDED_BY_5 = (  # the keys of [data] by which records are told (client/reading) at the judgement; NULL: not known
    "reading TEXT CHECK (reading IS NULL OR json_valid(reading))",
)

_PLANS = f"""
CREATE TABLE plans (
  digest TEXT PRIMARY KEY CHECK (length(digest) = 64),
  federation TEXT NOT NULL,
  plan TEXT NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('pending', 'approved', 'refused')),
  code TEXT NOT NULL,
  reason TEXT NOT NULL,
  sample_rate REAL, noise_multiplier REAL, steps INTEGER, max_grad_norm REAL, expected_batch INTEGER,
  unit TEXT CHECK (unit IN ('unit', 'record')), max_records INTEGER,
  horizon INTEGER NOT NULL CHECK (horizon >= 1),
  epsilon REAL NOT NULL, delta REAL NOT NULL,
  seen_at TEXT NOT NULL, judged_at TEXT NOT NULL, approved_at TEXT,
  {", ".join(ADDED_BY_2 + ADDED_BY_3 + ADDED_BY_4 + ADDED_BY_5)},
  CHECK (state <> 'approved' OR (
    sample_rate IS NOT NULL AND noise_multiplier IS NOT NULL AND steps IS NOT NULL AND max_grad_norm IS NOT NULL
    AND expected_batch IS NOT NULL AND unit IS NOT NULL AND max_records IS NOT NULL
    AND noise_multiplier > 0 AND epsilon > 0 AND delta > 0 AND approved_at IS NOT NULL))
);
"""

# An event of state 'lost' was never seen here: it is counted as spent because the ledger fell behind.
NEW_TABLES = """
CREATE TABLE events (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  plan TEXT NOT NULL REFERENCES plans (digest),
  round INTEGER NOT NULL CHECK (round >= 1),
  kind TEXT NOT NULL CHECK (kind IN ('train', 'evaluate')),
  request_sha256 TEXT NOT NULL CHECK (length(request_sha256) = CASE state WHEN 'lost' THEN 0 ELSE 64 END),
  state TEXT NOT NULL CHECK (state IN ('reserved', 'stored', 'lost')),
  reply BLOB, reply_sha256 TEXT,
  reserved_at TEXT NOT NULL, stored_at TEXT,
  UNIQUE (plan, round, kind),
  CHECK ((state = 'stored') = (reply IS NOT NULL AND reply_sha256 IS NOT NULL AND stored_at IS NOT NULL))
);
CREATE TABLE chain (
  seq INTEGER PRIMARY KEY CHECK (seq >= 1),
  previous BLOB NOT NULL CHECK (length(previous) = 32),
  hash BLOB NOT NULL CHECK (length(hash) = 32),
  body TEXT NOT NULL
);
CREATE TABLE charges (
  id INTEGER PRIMARY KEY,
  epsilon REAL NOT NULL CHECK (epsilon >= 0), delta REAL NOT NULL CHECK (delta >= 0),
  num_lost INTEGER NOT NULL CHECK (num_lost >= 0),
  charged_at TEXT NOT NULL,
  entry INTEGER NOT NULL UNIQUE
);
CREATE TABLE evidence (
  id INTEGER PRIMARY KEY,
  source TEXT NOT NULL CHECK (source IN ('server', 'file', 'missing')),
  seq INTEGER NOT NULL, hash TEXT NOT NULL,
  epsilon REAL NOT NULL, delta REAL NOT NULL,
  marks TEXT NOT NULL,
  charge_epsilon REAL NOT NULL CHECK (charge_epsilon >= 0), charge_delta REAL NOT NULL CHECK (charge_delta >= 0),
  noted_at TEXT NOT NULL,
  entry INTEGER NOT NULL UNIQUE,
  charge INTEGER REFERENCES charges (id)
);
"""

TRIGGERS = """
CREATE TRIGGER approved_plans_stay BEFORE UPDATE ON plans WHEN OLD.state = 'approved'
  BEGIN SELECT RAISE(ABORT, 'an approved plan never changes'); END;
CREATE TRIGGER approved_plans_are_kept BEFORE DELETE ON plans
  WHEN OLD.state = 'approved' OR EXISTS (SELECT 1 FROM events WHERE events.plan = OLD.digest)
  BEGIN SELECT RAISE(ABORT, 'an approved plan is never forgotten'); END;
CREATE TRIGGER events_keep_their_key BEFORE UPDATE OF id, plan, round, kind, request_sha256 ON events
  BEGIN SELECT RAISE(ABORT, 'an event never changes its key'); END;
CREATE TRIGGER stored_replies_stay BEFORE UPDATE ON events WHEN OLD.state <> 'reserved'
  BEGIN SELECT RAISE(ABORT, 'a stored reply never changes'); END;
CREATE TRIGGER events_stay BEFORE DELETE ON events
  BEGIN SELECT RAISE(ABORT, 'an event is never forgotten'); END;
CREATE TRIGGER chain_never_changes BEFORE UPDATE ON chain
  BEGIN SELECT RAISE(ABORT, 'an entry of the chain never changes'); END;
CREATE TRIGGER chain_is_kept BEFORE DELETE ON chain
  BEGIN SELECT RAISE(ABORT, 'an entry of the chain is never forgotten'); END;
CREATE TRIGGER charges_stay BEFORE UPDATE ON charges
  BEGIN SELECT RAISE(ABORT, 'a charge never changes'); END;
CREATE TRIGGER charges_are_kept BEFORE DELETE ON charges
  BEGIN SELECT RAISE(ABORT, 'a charge is never forgotten'); END;
CREATE TRIGGER settled_evidence_stays BEFORE UPDATE ON evidence WHEN OLD.charge IS NOT NULL
  BEGIN SELECT RAISE(ABORT, 'settled evidence never changes'); END;
CREATE TRIGGER evidence_stays BEFORE UPDATE OF id, source, seq, hash, epsilon, delta, marks, charge_epsilon,
  charge_delta, noted_at, entry ON evidence
  BEGIN SELECT RAISE(ABORT, 'evidence never changes'); END;
CREATE TRIGGER evidence_is_kept BEFORE DELETE ON evidence
  BEGIN SELECT RAISE(ABORT, 'evidence is never forgotten'); END;
"""

TABLES = _PLANS + NEW_TABLES


class LedgerError(PrivetError):
    """The ledger cannot be used. At a site's agent: answer `unavailable`, and never train."""
