"""A kit for tests of programs that use spann: realistic data, an exact model that is simple, and failing disks."""

from spann.testing.data import clustered
from spann.testing.faults import FaultyDisk, PowerCut, PowerCutDisk, ShortDisk, die_at
from spann.testing.oracle import exact_neighbours

__all__ = ["FaultyDisk", "PowerCut", "PowerCutDisk", "ShortDisk", "clustered", "die_at", "exact_neighbours"]
