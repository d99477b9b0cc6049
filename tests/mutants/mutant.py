"""One way in which the guarantee can be broken in one place; and the tests that must notice, by subject."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """`old` stands once in `file`; with `new` in its place, at least one of `tests` must fail."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


TRAINER = ("tests/client/test_trainer.py", "tests/client/test_trainer_units.py", "tests/client/test_trainer_noise.py")
MATES = ("tests/client/test_trainer_mates.py", "tests/client/test_trainer_isolation.py")
NOISE = ("tests/common/privacy/test_noise.py",)
AGENT = (
    "tests/client/test_agent.py",
    "tests/client/test_agent_metrics.py",
    "tests/client/test_agent_head.py",
    "tests/client/test_hostile_server.py",
)
LEDGER = ("tests/client/test_ledger.py", "tests/client/test_ledger_states.py")
BEHIND = ("tests/client/test_ledger_behind.py", "tests/client/test_ledger_restored.py")
CHAIN = ("tests/client/test_ledger_chain.py",)
FUSED = ("tests/client/test_fused.py",)
BOUNDS = ("tests/client/test_fused_bounds.py",)
TAGGED = ("tests/client/test_fused_tokens.py",)
FROZEN = ("tests/common/test_frozen.py", "tests/common/test_prefix.py", "tests/client/test_engines.py")
POLICY = ("tests/client/test_policy.py",)
FOREIGN = ("tests/client/test_foreign_method.py",)
INSTALLED = ("tests/common/test_installed_methods.py",)
METRICS = ("tests/client/test_evaluation.py", "tests/common/test_classification.py")
SPLIT = ("tests/client/test_split.py", "tests/client/test_data.py")
LABELS = ("tests/common/test_multilabel.py",)
ENTITIES = ("tests/common/test_entities.py",)
JUDGES = ("tests/client/test_evaluate_only.py",)
READING = ("tests/client/test_reading.py",)
FIGURES = ("tests/common/privacy/test_accountant.py", "tests/common/privacy/test_horizon.py")
