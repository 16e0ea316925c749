"""The present generation of an index, as the next one needs it: parameters, working space and centroids."""

from __future__ import annotations

import numpy as np

from spann.building.centroids import Centroids
from spann.building.space import Space, middle
from spann.building.stages.write_exact import NAME as PAGES
from spann.config import BuildParams
from spann.elements import memory_dtype, unpack
from spann.errors import FormatError, InputError
from spann.format.postings import Record
from spann.format.shapes import directions_of
from spann.store.reader import IndexReader
from spann.types import Array, Metric


class Present:
    """The present generation of an index, to which `added` vectors are added.

    `decision` is that of a build of these with the parameters of the index. The constructor raises `FormatError` if the
    manifest contradicts itself."""

    def __init__(self, reader: IndexReader, added: int) -> None:
        self.reader, self.about, self.updates = reader, reader.attributes, reader.collection.updates
        about, where = reader.attributes, str(reader.path)
        self.count = reader.collection.count
        self.metric = Metric.parse(about["metric"])
        try:
            params = BuildParams(**about["parameters"])
            self.decision = params.decide(about["dtype"], about["dim"], self.metric, added)
        except (TypeError, InputError) as error:
            raise FormatError(f"{where}: the parameters of its build cannot be: {error}") from None
        found = {
            "code_bits": reader.collection.code_bits,
            "directions": directions_of(about, where),
            "posting_bound": about["posting_bound"],
        }
        for name, value in found.items():
            if getattr(self.decision, name) != value:
                raise FormatError(f"{where}: {name} is {value}; its parameters give {getattr(self.decision, name)}")
        self.record = Record.of(about)
        self.pages: int = reader.array(PAGES).rows

    def space(self, max_norm: float) -> Space:
        """The working space of the centroids, for vectors up to `max_norm` long."""
        origin = np.zeros(self.about["dim"], np.float32)
        if self.metric.is_euclidean:
            vectors = self._centroid_vectors()
            origin = middle(vectors.mean(axis=0, dtype=np.float64), vectors).astype(np.float32)
            if memory_dtype(self.about["dtype"]).kind in "biu":  # which stay exact
                origin = np.rint(origin)
        return Space(self.metric, self.about["dim"], max(max_norm, self.about["max_norm"]), origin)

    def _centroid_vectors(self) -> Array:
        vectors = self.reader.read("centroids/vectors")
        return vectors if self.decision.code_bits else unpack(vectors, self.about["dtype"])

    def centroids(self, space: Space) -> Centroids:
        vectors, lift = self._centroid_vectors(), None
        if self.decision.code_bits and self.metric is Metric.IP:
            was = self.about["max_norm"] ** 2
            if "centroids/lift" in self.reader.arrays():
                sqlift = np.square(self.reader.read("centroids/lift"), dtype=np.float64)
            else:
                x = vectors.astype(np.float32)
                sqlift = np.maximum(was - np.einsum("ij,ij->i", x, x, dtype=np.float64), 0)
            lift = np.sqrt(sqlift + (space.max_norm**2 - was)).astype(np.float32)
        return Centroids(space, vectors, None, lift, self.decision.code_bits == 0)
