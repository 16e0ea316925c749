"""Building an index: from a source of vectors to the published directory, stage by stage as `STAGES` has them."""

from spann.build.append import APPEND_STAGES, append_index
from spann.build.calibration import recalibrate
from spann.build.pipeline import build_index
from spann.build.plan import STAGES, Plan, limit_bytes, plan_build, resident_bytes

__all__ = [
    "APPEND_STAGES",
    "STAGES",
    "Plan",
    "append_index",
    "build_index",
    "limit_bytes",
    "plan_build",
    "recalibrate",
    "resident_bytes",
]
