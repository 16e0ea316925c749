"""The HTML page of `spann dedup`."""

from __future__ import annotations

import html
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from spann.cli.report import STYLE, html_table
from spann.jobs import Duplicates
from spann.vectors.sinks import plain_ids, write_whole

EXAMPLES = 20
"""Groups that are shown, the largest first."""

MEMBERS = 8
"""Vectors of a group that are shown."""


def write_page(found: Duplicates, name: str, path: Path) -> None:
    """Writes a page on the groups of the index `name`, whole or not at all."""
    text = "".join(_page(found, name))

    def write(file: BinaryIO) -> None:
        file.write(text.encode())

    write_whole(path, write)


def _page(found: Duplicates, name: str) -> Iterator[str]:
    about, title = found.report(), f"Near-duplicates in {html.escape(name)}"
    yield f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
    yield f"<style>{STYLE}</style></head><body><h1>{title}</h1>"
    facts = [
        ("vectors", f"{about['vectors']:,}"),
        ("radius", f"{found.radius:g}"),
        ("groups", f"{about['groups']:,}"),
        ("vectors near one that is kept", f"{about['filtered']:,} ({about['duplicate_ratio']:.2%})"),
        ("copies", f"{about['exact_duplicate_ratio']:.2%}"),
    ]
    yield html_table(("", ""), facts)
    yield "<h2>Sizes of groups</h2>" + html_table(("vectors in a group", "groups"), _sizes(found))
    rows = []
    for kept, others, far in found.largest(EXAMPLES):
        shown = ", ".join(map(str, plain_ids(others[:MEMBERS])))
        more = f" and {len(others) - MEMBERS:,} more" if len(others) > MEMBERS else ""
        rows.append((str(plain_ids(np.array([kept], object))[0]), f"{len(others) + 1:,}", f"{far:.4g}", shown + more))
    header = ("kept", "vectors", "largest distance to the nearest", "others")
    yield f"<h2>The {len(rows)} largest</h2>" + html_table(header, rows) + "</body></html>\n"


def _sizes(found: Duplicates) -> list[tuple[str, str]]:
    """How many groups there are of each size, in steps that double."""
    sizes, rows, low = found.sizes(), [], 2
    while low <= sizes.max(initial=0):
        high = 2 * low - 1 if low > 3 else low
        count = int(((sizes >= low) & (sizes <= high)).sum())
        rows.append((f"{low}" if low == high else f"{low} to {high}", f"{count:,}"))
        low = high + 1
    return rows
