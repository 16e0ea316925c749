"""Building an index: from a source of vectors to the published directory, stage by stage as `STAGES` has them."""

from spann.build.pipeline import STAGES, build_index

__all__ = ["STAGES", "build_index"]
