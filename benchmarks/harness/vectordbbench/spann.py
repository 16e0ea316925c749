"""spann in VectorDBBench. Vectors come in small batches and are kept in two files; `optimize` builds the index."""

import fcntl
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ..api import VectorDB


class Spann(VectorDB):
    """VectorDBBench copies it into other processes and threads, so an index is open only within `init`."""

    name = "Spann"
    thread_safe = True

    def __init__(self, dim, db_config, db_case_config, collection_name="vectors", drop_old=False, **kwargs):
        self._dim, self._case = dim, db_case_config
        self._folder = Path(db_config["path"]) / collection_name
        self._index = self._params = None
        if drop_old:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def init(self):
        self._open()
        try:
            yield
        finally:
            self._close()

    def insert_embeddings(self, embeddings, metadata, labels_data=None, **kwargs):
        vectors, ids = np.asarray(embeddings, np.float32), np.asarray(metadata, np.int64)
        with (self._folder / "vectors.f32").open("ab") as rows, (self._folder / "ids.i64").open("ab") as names:
            fcntl.flock(rows, fcntl.LOCK_EX)  # others insert, too: rows and ids stay in one order
            rows.write(vectors.tobytes())
            names.write(ids.tobytes())
            names.flush()
            rows.flush()
        return len(ids), None

    def optimize(self, data_size=None):
        import spann

        self._close()
        vectors = np.memmap(self._folder / "vectors.f32", np.float32, "r").reshape(-1, self._dim)
        ids = np.fromfile(self._folder / "ids.i64", np.int64)
        spann.build(vectors, self._path, ids=ids, overwrite=True, **self._case.index_param()).close()
        self._open()

    def search_embedding(self, query, k=100, **kwargs):
        if k not in self._params:  # a small collection has no calibration: use the default
            calibrated = self._index.calibration is not None
            self._params[k] = self._index.params_for(k=k, **self._case.search_param()) if calibrated else None
        query = np.asarray(query, np.float32)
        ids = self._index.search(query, k, self._params[k], threads=1, in_flight=1).ids[0]
        return ids[ids >= 0].tolist()

    @property
    def _path(self):
        return self._folder / "index.spann"

    def _open(self):
        import spann

        self._params = {}
        if self._path.exists():
            self._index = spann.open(self._path, memory_budget=self._case.memory_budget)

    def _close(self):
        if self._index is not None:
            self._index.close()
        self._index = None
