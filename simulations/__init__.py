"""Federations of virtual sites in one process.

from privet.simulations import repeated, simulate, sweep
"""

from typing import TYPE_CHECKING, Any

import privet.common  # noqa: F401  (quiets the libraries underneath before they are imported)

if TYPE_CHECKING:
    from privet.simulations.data import SimulationData
    from privet.simulations.repeat import Repeated, repeated
    from privet.simulations.result import Simulation
    from privet.simulations.run import simulate
    from privet.simulations.sweep_run import Sweep, sweep

__all__ = ["Repeated", "Simulation", "SimulationData", "Sweep", "repeated", "simulate", "sweep"]


def __getattr__(name: str) -> Any:
    """Import on first use: the generated text alone needs no torch."""
    if name == "SimulationData":
        from privet.simulations.data import SimulationData

        return SimulationData
    if name in ("Simulation", "simulate"):
        from privet.simulations import run

        return getattr(run, name)
    if name in ("Repeated", "repeated"):
        from privet.simulations import repeat

        return getattr(repeat, name)
    if name in ("Sweep", "sweep"):
        from privet.simulations import sweep_run

        return getattr(sweep_run, name)
    raise AttributeError(name)
