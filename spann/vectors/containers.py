"""What it takes to read files with the libraries of others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from spann.errors import InputError, SpannError, StorageError
from spann.system import reason


@contextmanager
def needs_h5py(name: str) -> Iterator[None]:
    """Turns the absence of the library that reads HDF5 into an `InputError` that says how to get it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise InputError(f"{name}: HDF5 files need h5py: pip install 'spann-index[formats]'") from error


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
