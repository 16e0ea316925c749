"""Files that hold several tables: which part of one is meant, and what it takes to read it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spann.errors import InputError

CONTAINERS = {".h5": ("h5py", "HDF5"), ".hdf5": ("h5py", "HDF5"), ".parquet": ("pyarrow", "Parquet")}
"""The library and the name of each format, by extension."""


def split_part(path: Path) -> tuple[Path, str]:
    """File and part of FILE#PART, where FILE can have parts; elsewhere `path` and no part."""
    # Of the whole path: a dataset within groups of HDF5 has slashes in its name.
    file, mark, part = str(path).rpartition("#")
    if mark and Path(file).suffix.lower() in CONTAINERS:
        return Path(file), part
    return path, ""


@contextmanager
def library_of(suffix: str, name: str) -> Iterator[None]:
    """Turns the absence of the library that reads `suffix` files into an `InputError` that says how to get it."""
    library, formats = CONTAINERS[suffix]
    try:
        yield
    except ModuleNotFoundError as error:
        raise InputError(f"{name}: {formats} files need {library}: pip install 'spann-index[formats]'") from error
