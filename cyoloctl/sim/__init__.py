"""A deterministic simulation of clusters of the code that ships: see docs/correctness.md.

The replica, links, journal, snapshot store, wire format and state machines are
the real ones; clock, network and disk are simulated.  A run is a function of
its seed.  The simulation is part of the product, so that anyone can look
further than the project's own runs did: ``cyoloctl sim``.
"""

from cyoloctl.sim.campaign import replay_command, run_seeds
from cyoloctl.sim.faults import FAULTS, OPT_IN
from cyoloctl.sim.run import Report, Violation, run_seed

__all__ = ["FAULTS", "OPT_IN", "Report", "Violation", "replay_command", "run_seed", "run_seeds"]
