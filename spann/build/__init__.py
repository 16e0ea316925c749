"""Building an index: scan, sample, cluster, assign, graph, layout, write, publish, in this order."""

from spann.build.pipeline import STAGES, build_index

__all__ = ["STAGES", "build_index"]
