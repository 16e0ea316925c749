"""A kit for tests of programs that use spann: realistic data, and a model that is right by being simple."""

from spann.testing.data import clustered
from spann.testing.oracle import exact_neighbours

__all__ = ["clustered", "exact_neighbours"]
