"""Files that hold several tables: which part of one is meant, and what it takes to read it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spann.errors import InputError, SpannError, StorageError
from spann.system import reason

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


@contextmanager
def foreign(what: str) -> Iterator[None]:
    """For calls of a library that reads bytes nobody vouches for: what it raises becomes an `InputError` that begins
    with `what`, or a `StorageError` where it comes from the system.

    Damaged bytes take a library anywhere, so there is no list of what it can raise. Nothing else belongs inside.
    """
    try:
        yield
    except SpannError:
        raise
    except OSError as error:
        kind = StorageError if error.errno else InputError  # without a number it is the library's own
        raise kind(f"{what}: {reason(error)}") from error
    except MemoryError as error:
        raise InputError(f"{what}: it asks for more memory than there is") from error
    except Exception as error:
        raise InputError(f"{what}: {reason(error) or type(error).__name__}") from error
