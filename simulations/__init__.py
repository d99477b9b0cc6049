"""Federations of virtual sites in one process.

from privet.simulations import simulate
"""

from typing import TYPE_CHECKING, Any

import privet.common  # noqa: F401  (quiets the libraries underneath before they are imported)

if TYPE_CHECKING:
    from privet.simulations.data import SimulationData
    from privet.simulations.run import Simulation, simulate

__all__ = ["Simulation", "SimulationData", "simulate"]


def __getattr__(name: str) -> Any:
    """Import on first use: the generated text alone needs no torch."""
    if name == "SimulationData":
        from privet.simulations.data import SimulationData

        return SimulationData
    if name in ("Simulation", "simulate"):
        from privet.simulations import run

        return getattr(run, name)
    raise AttributeError(name)
