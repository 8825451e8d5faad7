"""A local Pictograph: an API host and a storage host with an organization in memory.

It is the only fake of this project. The demo shows it, and the tests and benchmarks run against it.
`tests/contract` keeps it true by driving it with the vendor's own client. It imports nothing from
`pictofs`.
"""

from standin.faults import Fault, Match
from standin.organization import Organization
from standin.presets import PRESETS
from standin.server import StandIn
from standin.spec import Spec
from standin.switches import Switches

__all__ = ["PRESETS", "Fault", "Match", "Organization", "Spec", "StandIn", "Switches"]
