"""New postings behind those of the present generation, by the stages "arrange" and "write" of a build."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spann.building.centroids import Centroids
from spann.building.checkpoint import Batches
from spann.building.job import Job
from spann.building.stages.arrange import NAME as EXACT
from spann.building.stages.arrange import ExactStore, arrange
from spann.building.stages.layout import Laid
from spann.building.stages.partition import Partition
from spann.building.stages.write_codes import Coded, posting_facts, write_codes
from spann.building.stages.write_exact import NAME as PAGES
from spann.building.stages.write_exact import Pages, ranges, write_pages
from spann.building.temporary import RecordFile
from spann.changing.generation import Generation
from spann.changing.present import Present
from spann.quantize import Quantizer
from spann.store.exact import PageChecksums
from spann.types import Array


@dataclass(frozen=True)
class Extended:
    """The new postings.

    - ``facts`` (postings,): what is known of each besides its pages: records with crc32c and shape (`posting_facts`),
      or the crc32c alone for postings without codes.
    - ``positions``: the position in the vectors of each new row of the exact store; None without codes.
    """

    facts: Array
    positions: RecordFile | None

    def stored(self, laid: Laid) -> NDArray[np.int64]:
        """The position in the vectors of each new stored row, of the postings that are `laid` out."""
        if self.positions is not None:
            return self.positions.read(0, self.positions.count)
        length, primaries = laid.directory.length.astype(np.int64), laid.directory.primaries.astype(np.int64)
        found: NDArray[np.int64] = laid.kept.read(0, laid.kept.count)[ranges(np.cumsum(length) - length, primaries)]
        return found


def extend_postings(
    job: Job, following: Generation, old: Present, vectors: Partition, centroids: Centroids, laid: Laid
) -> Extended:
    """Adds the postings that are `laid` out, of `vectors` around `centroids`, and their vectors to the exact store."""
    decision, reader = job.decision, old.reader
    writer = following.extend(PAGES, laid.directory.pages - old.pages)
    if not decision.code_bits:
        pages = Pages(job, laid.directory, writer, following.records("facts", np.uint32), Batches())
        return Extended(write_pages(vectors, laid, pages), None)
    known = posting_facts(job.source.dim, decision.code_bits, decision.directions)
    pages = Pages(job, laid.directory, writer, following.records("facts", known), Batches())
    exact = following.extend(EXACT, vectors.count)
    page_crcs = PageChecksums(exact.layout)
    page_crcs.begin_with(reader.array(EXACT), reader.read("vectors/exact_crc32c"))
    store = ExactStore(exact, page_crcs, following.records("arranged", np.int64), Batches())
    arrange(job, following, vectors, laid, store)
    quantizer = Quantizer(
        job.source.dim,
        decision.code_bits,
        job.space.metric,
        reader.read("quantizer/origin"),
        reader.read("quantizer/signs"),
    )
    facts = write_codes(Coded(job, vectors, store, laid, centroids, quantizer), pages)
    return Extended(facts, store.positions)
