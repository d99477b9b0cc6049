"""What importing a module costs: seconds that a person waits for, in every process that is started.

Each entry is imported in a process of its own, as it is in life.
"""

import os
import subprocess
import sys

from privet.simulations.engines.local import LOAD, SETTINGS

LIBRARIES = frozenset({"torch", "transformers", "peft", "opacus", "sklearn", "datasets", "flwr_datasets"})
# scipy and dp_accounting are imported when the first noise is calibrated, and not before.
HEAVY = LIBRARIES | {"scipy", "dp_accounting", "pandas", "matplotlib", "huggingface_hub"}

# What the parent of a simulation, and a command before it computes, imports.
PARENT = (
    "privet.client.split",
    "privet.common.adapter",
    "privet.common.cli",
    "privet.common.initial",
    "privet.common.layout",
    "privet.common.messages",
    "privet.common.methods",
    "privet.common.privacy",
    "privet.common.tasks.classification",
    "privet.common.tokens",
    "privet.common.weights",
    "privet.common.wordpiece",
    "privet.server.evaluation",
    "privet.server.judgement",
    "privet.server.metrics",
    "privet.server.report",
    "privet.server.run_folder",
    "privet.server.strategy",
    "privet.simulations.corpus",
    "privet.simulations.data",
    "privet.simulations.engines.local",
    "privet.simulations.filling",
    "privet.simulations.grid",
    "privet.simulations.live",
    "privet.simulations.partition",
    "privet.simulations.run",
    "privet.simulations.terms",
)


def imported(modules: tuple[str, ...]) -> set[str]:
    """The top-level packages in a fresh process after importing these."""
    code = f"import {', '.join(modules)}; import sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_parent_of_a_simulation_imports_nothing_heavy() -> None:
    found = imported(PARENT)
    assert "flwr" in found  # the question is answered by a process that did import them
    for module in PARENT if found & HEAVY else ():  # which of them?
        assert not imported((module,)) & HEAVY, module
    assert not found & HEAVY


# Of the fast path.
WORKER = ("privet.client.trainer", "privet.simulations.engines.fused", "privet.simulations.engines.worker")


def test_a_worker_imports_torch_and_no_more_of_the_libraries() -> None:
    """Neither those around the model nor those around the data."""
    found = imported(WORKER)
    assert "torch" in found
    assert not found & LIBRARIES - {"torch"}


def test_what_is_forked_has_one_thread() -> None:
    """A lock that another thread holds at a fork is held for ever in the child."""
    code = f"import os, {', '.join(LOAD)}; print(len(os.listdir('/proc/self/task')))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ | SETTINGS
    )
    assert int(done.stdout) == 1
