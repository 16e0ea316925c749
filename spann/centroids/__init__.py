"""The centroids' navigation graph."""

from spann.centroids.graph import Graph, Level, build_graph, check_graph

__all__ = ["Graph", "Level", "build_graph", "check_graph"]
