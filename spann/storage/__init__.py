"""Every byte of an index on disk: arrays, manifest, integrity, publishing. docs/FORMAT.md describes what is written."""

from spann._kernels.codes import code_bytes
from spann.storage import files
from spann.storage.arrays import Problem, ShardedArray, ShardedWriter
from spann.storage.collection import Collection
from spann.storage.exact import PageChecksums, exact_pages, page_checksums
from spann.storage.layout import CHUNK_BYTES, SHARD_BYTES, ArrayLayout
from spann.storage.manifest import FORMAT_VERSION, KNOWN_FEATURES, RESERVED
from spann.storage.places import Where, as_path, without_links
from spann.storage.postings import FACTOR_BYTES, PAGE, Record, check_directory, posting_bytes, posting_span
from spann.storage.reader import IndexReader, on_current
from spann.storage.shapes import SHAPES, directions_of, shape_bytes, shape_record
from spann.storage.writer import IndexWriter

__all__ = [
    "CHUNK_BYTES",
    "FACTOR_BYTES",
    "FORMAT_VERSION",
    "KNOWN_FEATURES",
    "PAGE",
    "RESERVED",
    "SHAPES",
    "SHARD_BYTES",
    "ArrayLayout",
    "Collection",
    "IndexReader",
    "IndexWriter",
    "PageChecksums",
    "Problem",
    "Record",
    "ShardedArray",
    "ShardedWriter",
    "Where",
    "as_path",
    "check_directory",
    "code_bytes",
    "directions_of",
    "exact_pages",
    "files",
    "on_current",
    "page_checksums",
    "posting_bytes",
    "posting_span",
    "shape_bytes",
    "shape_record",
    "without_links",
]
