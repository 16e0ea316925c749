"""Building an index: from a source of vectors to the published directory, stage by stage as `STAGES` has them."""

from spann.building.pipeline import build_index
from spann.building.plan import STAGES, Plan, limit_bytes, plan_build, resident_bytes

__all__ = ["STAGES", "Plan", "build_index", "limit_bytes", "plan_build", "resident_bytes"]
