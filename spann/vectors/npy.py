"""The header of NumPy's own files, read with no trust in what it says.

NumPy evaluates it as a Python literal, which is kept, and follows whatever comes of that, which is not.
"""

from __future__ import annotations

import ast
import math
import re
import struct
import sys
import warnings
from typing import IO, Any

import numpy as np

from spann.errors import InputError

_LARGEST = 10_000
"""Bytes of a header at most, as in NumPy itself: evaluating a larger one may take any time and memory."""

NPY_HEAD = 12 + _LARGEST
"""Bytes at the beginning of a file that hold its header, whatever its version."""

_TYPE = re.compile(r"[<>|=]?[?A-Za-z]\d{0,6}(\[\w+\])?")
"""Element types by name; those with fields or shapes of their own are no numbers."""


def read_npy_header(file: IO[bytes], name: str) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
    """Shape, dtype and whether in Fortran order; leaves `file` at the first value. `InputError` if it is no header."""
    try:
        return _npy_header(file)
    # The header is a Python literal: what a damaged one can raise is the union of the parser's errors and NumPy's.
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError, struct.error) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{name} does not start with a valid .npy header: {reason}") from error


def _npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
    magic = file.read(8)
    if magic[:6] != b"\x93NUMPY":
        raise ValueError(f"its first bytes are {magic[:6]!r}")
    if magic[6:] not in (b"\1\0", b"\2\0", b"\3\0"):
        raise ValueError(f"version {tuple(magic[6:])} of the format is not supported")
    length = struct.Struct("<H" if magic[6] == 1 else "<I")
    (size,) = length.unpack(file.read(length.size))
    if size > _LARGEST:
        raise ValueError(f"it is {size} bytes long; the limit is {_LARGEST}")
    text = file.read(size)
    if len(text) < size:
        raise ValueError(f"it is {size} bytes long and ends after {len(text)}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the parser, about literals that are refused below
        return _npy_fields(ast.literal_eval(text.decode("latin1").strip()))


def _npy_fields(found: object) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
    if not isinstance(found, dict) or set(found) != {"descr", "fortran_order", "shape"}:
        raise ValueError("it does not hold descr, fortran_order and shape")
    descr, fortran, shape = found["descr"], found["fortran_order"], found["shape"]
    if not isinstance(descr, str) or not _TYPE.fullmatch(descr):
        raise ValueError(f"descr {_brief(descr)} is no element type")
    if not isinstance(fortran, bool):
        raise ValueError(f"fortran_order {_brief(fortran)} is not True or False")
    if not isinstance(shape, tuple) or not all(type(length) is int and 0 <= length <= sys.maxsize for length in shape):
        raise ValueError(f"shape {_brief(shape)} is impossible")
    if math.prod(shape) > sys.maxsize:
        raise ValueError(f"shape {_brief(shape)} is impossible")
    return shape, np.dtype(descr), fortran


def _brief(value: object) -> str:
    """What a header holds, however long it is."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."
