"""Columns of results as tables of other libraries. Each library is imported when it is first asked for."""

from __future__ import annotations

import html
import uuid
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spann.errors import InputError

Columns = Mapping[str, NDArray[Any]]

SHOWN_ROWS = 10
"""Rows that a table shows in a notebook; the caption counts the rest."""


def pandas_frame(columns: Columns) -> Any:
    return _library("pandas").DataFrame({name: _without_mask(column) for name, column in columns.items()})


def _without_mask(column: NDArray[Any]) -> NDArray[Any]:
    """A column with None where it is masked."""
    if not isinstance(column, np.ma.MaskedArray):
        return column
    if not column.mask.any():
        return column.data
    found = column.data.astype(object)
    found[np.ma.getmaskarray(column)] = None
    return found


def arrow_table(columns: Columns) -> Any:
    import pyarrow as pa  # 60 ms that a search has no use for

    return pa.table({name: _typed(column) for name, column in columns.items()})


def _typed(column: NDArray[Any]) -> Any:
    import pyarrow as pa

    if isinstance(column, np.ma.MaskedArray) and column.dtype != object:
        return pa.array(column.data, mask=np.ma.getmaskarray(column))
    values = column.tolist() if column.dtype == object else column
    if column.dtype == object and len(column) and isinstance(values[0], uuid.UUID):
        return pa.ExtensionArray.from_storage(pa.uuid(), pa.array([one.bytes for one in values], pa.binary(16)))
    return pa.array(values)


def polars_frame(columns: Columns) -> Any:
    return _library("polars").DataFrame({name: _texts(column) for name, column in columns.items()})


def _texts(column: NDArray[Any]) -> Any:
    """A column of names as polars has them: without UUIDs."""
    if column.dtype != object:
        return column if not isinstance(column, np.ma.MaskedArray) else _without_mask(column).tolist()
    return [str(value) if isinstance(value, uuid.UUID) else value for value in column.tolist()]


def rows(columns: Columns) -> list[dict[str, Any]]:
    """A dictionary of Python numbers for each row."""
    values = [column.tolist() for column in columns.values()]
    return [dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True)]


def html_table(caption: str, columns: Columns) -> str:
    """An HTML table of the first rows; the caption says how many there are."""
    count = len(next(iter(columns.values())))
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    shown = rows({name: column[:SHOWN_ROWS] for name, column in columns.items()})
    body = "".join("<tr>" + "".join(f"<td>{_number(value)}</td>" for value in row.values()) + "</tr>" for row in shown)
    more = f"{html.escape(caption)}; the first {len(shown)} of {count} rows" if count > len(shown) else caption
    return f"<table><caption>{more}</caption><tr>{head}</tr>{body}</table>"


def short(values: NDArray[Any], most: int = 5) -> str:
    """The first values of an array: [1, 2, 3, ...]."""
    first = [_number(value) for value in values[:most].tolist()]
    return f"[{', '.join([*first, '...'] if len(values) > most else first)}]"


def _number(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _library(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise InputError(f"results as a table of {name} need {name}: pip install {name}") from None
