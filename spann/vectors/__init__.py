"""Vectors in, results out: sources of vectors, samples of them, files of results and of ground truth."""

from spann.vectors.checks import SMALLEST_SQNORM, check_finite, check_lengths, check_nonzero, narrowed, plain
from spann.vectors.conversion import convert
from spann.vectors.id_list import IdList
from spann.vectors.ids import GivenIds, as_ids, ids_for, read_ids
from spann.vectors.names import NameList
from spann.vectors.opening import open_queries, open_source
from spann.vectors.queries import as_queries
from spann.vectors.sampling import sample_rows
from spann.vectors.sinks import check_results_path, write_results
from spann.vectors.sources import ArraySource, StoredSource, UnreadSource, VectorSource, for_metric, metric_of
from spann.vectors.truth_files import Truth, read_truth, write_truth

__all__ = [
    "SMALLEST_SQNORM",
    "ArraySource",
    "GivenIds",
    "IdList",
    "NameList",
    "StoredSource",
    "Truth",
    "UnreadSource",
    "VectorSource",
    "as_ids",
    "as_queries",
    "check_finite",
    "check_lengths",
    "check_nonzero",
    "check_results_path",
    "convert",
    "for_metric",
    "ids_for",
    "metric_of",
    "narrowed",
    "open_queries",
    "open_source",
    "plain",
    "read_ids",
    "read_truth",
    "sample_rows",
    "write_results",
    "write_truth",
]
