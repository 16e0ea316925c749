"""Objects that become an array of vectors: lists, tensors, columns of lists."""

from __future__ import annotations

import sys
from numbers import Number
from typing import Any

import numpy as np

from spann.elements import is_bfloat16
from spann.errors import InputError
from spann.system import reason
from spann.types import Array
from spann.vectors.checks import plain

_CPU = 1
"""The device of main memory in DLPack."""


def is_array_like(obj: object) -> bool:
    """Whether `as_array` takes an object."""
    return isinstance(obj, list | tuple) or any(hasattr(obj, name) for name in ("__array__", "__dlpack__"))


def as_array(obj: Any, name: str) -> Array:
    """An array of numbers, of as many dimensions as the object has.

    Raises `InputError` for what is none, naming the row of a vector of another length or of a value that is missing.
    """
    if hasattr(obj, "__dlpack__") and not isinstance(obj, np.ndarray):
        return _tensor(obj, name)
    if isinstance(obj, list | tuple):
        obj = _even(obj, name)
    found = plain(obj, name)
    if found.dtype == object:
        found = _rows_of(found, name)
    if found.dtype.kind not in "biuf" and not is_bfloat16(found.dtype):
        raise InputError(
            f"{name} is a {type(obj).__name__} whose elements are {found.dtype.name}: vectors are arrays or lists of "
            "numbers, or paths of files"
        )
    return found


def _tensor(obj: Any, name: str) -> Array:
    device = obj.__dlpack_device__()[0] if hasattr(obj, "__dlpack_device__") else _CPU
    if device != _CPU:
        raise InputError(f"{name} lies on a device (DLPack type {int(device)}): move it to the CPU, as by .cpu()")
    if str(getattr(obj, "dtype", "")) == "torch.bfloat16":  # which neither numpy nor DLPack take as it is
        torch = sys.modules["torch"]
        return np.asarray(obj.detach().view(torch.int16)).view("V2")
    try:
        return plain(obj, name) if hasattr(obj, "__array__") else np.from_dlpack(obj)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{name} is a tensor that cannot be read: {reason(error)}") from error


def _even(rows: list[Any] | tuple[Any, ...], name: str) -> Any:
    """`rows`, which are all numbers, or vectors of one length."""
    lengths = [len(row) if hasattr(row, "__len__") and not isinstance(row, str | bytes) else -1 for row in rows]
    if len(set(lengths)) > 1:
        row = next(row for row, length in enumerate(lengths) if length != lengths[0])
        if lengths[row] < 0:
            raise InputError(f"row {row} of {name} is {rows[row]!r}: vectors cannot be missing")
        raise InputError(
            f"row {row} of {name} has {lengths[row]} numbers where row 0 has {max(lengths[0], 1)}: all vectors are of "
            "one length"
        )
    if rows and hasattr(rows[0], "__dlpack__") and not isinstance(rows[0], np.ndarray):
        return [_tensor(row, f"row {number} of {name}") for number, row in enumerate(rows)]
    return rows


def _rows_of(found: Array, name: str) -> Array:
    """An array of objects as one of numbers."""
    if found.ndim == 1 and len(found) and hasattr(found[0], "__len__") and not isinstance(found[0], str | bytes):
        missing = [row for row, one in enumerate(found) if not hasattr(one, "__len__")]
        if missing:
            raise InputError(f"row {missing[0]} of {name} is {found[missing[0]]!r}: vectors cannot be missing")
        return as_array([np.asarray(one) for one in found], name)
    for place, value in np.ndenumerate(found):
        if not isinstance(value, Number):
            where = f"row {place[0]} column {place[1]}" if len(place) > 1 else f"row {place[0] if place else 0}"
            raise InputError(f"{where} of {name} is {value!r}: vectors hold numbers, and none may be missing")
    try:
        return found.astype(np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{name} holds objects that are no numbers: {reason(error)}") from error
