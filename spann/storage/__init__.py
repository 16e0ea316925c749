"""Every byte of an index on disk: arrays, manifest, integrity, publishing. docs/FORMAT.md describes what is written."""

from spann.storage import files
from spann.storage.arrays import Problem, ShardedArray, ShardedWriter
from spann.storage.layout import CHUNK_BYTES, SHARD_BYTES, ArrayLayout
from spann.storage.manifest import FORMAT_VERSION, KNOWN_FEATURES
from spann.storage.postings import PAGE, check_directory, posting_span, record_bytes
from spann.storage.reader import IndexReader
from spann.storage.writer import IndexWriter

__all__ = [
    "CHUNK_BYTES",
    "FORMAT_VERSION",
    "KNOWN_FEATURES",
    "PAGE",
    "SHARD_BYTES",
    "ArrayLayout",
    "IndexReader",
    "IndexWriter",
    "Problem",
    "ShardedArray",
    "ShardedWriter",
    "check_directory",
    "files",
    "posting_span",
    "record_bytes",
]
