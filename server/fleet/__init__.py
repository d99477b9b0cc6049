"""Flower's Fleet service, and a Grid straight on its state.

The server's end of the wire. `Fleet` listens, lets allowed sites in and opens runs; `FleetGrid` is a run's Flower Grid.
"""

from privet.server.fleet.fleet import Fleet
from privet.server.fleet.grid import FleetGrid
from privet.server.fleet.refusals import RefusedKey

__all__ = ["Fleet", "FleetGrid", "RefusedKey"]
