"""Where vectors lie that are given by path: a file, a folder of parts, a list, a pattern, or a URI.

A folder stands for the files in it, at any depth, in the order of their names; names that begin with `_` or a dot are
no data. All files are of one kind, which their extension tells, or a `format` that is given.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spann.errors import InputError, MissingError, StorageError
from spann.system import open_regular
from spann.vectors.containers import foreign
from spann.vectors.files import is_directory, look_up

ROWS = ("fbin", "f16bin", "bf16bin", "u8bin", "i8bin", "fvecs", "bvecs", "npy")
"""Kinds of files that hold rows and nothing else."""

TABLES = ("parquet", "arrow")
"""Kinds of files with columns that can be read from any row on."""

STREAMS = ("orc", "csv", "jsonl", "arrows")
"""Kinds of files with columns that are read in order."""

KINDS = (*ROWS, "hdf5", *TABLES, *STREAMS)
"""All of them: values of `format`."""

_SUFFIXES = {
    **{f".{kind}": kind for kind in KINDS},
    ".h5": "hdf5",
    **dict.fromkeys((".pq", ".parq"), "parquet"),
    **dict.fromkeys((".feather", ".ipc"), "arrow"),
    ".tsv": "csv",
    ".ndjson": "jsonl",
}
"""The kind of each extension."""

_PACKED = (".gz", ".bz2", ".zst")
"""Extensions after that of CSV and JSON lines which are packed."""

_HIDDEN = ("_", ".")
"""How the names of files begin that are no data, as `_SUCCESS`."""

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")

_SPLIT = re.compile(r"(\w+)-\d{5}-of-\d{5}\.\w+")
"""Files of Hugging Face: the name of a split, and which part of it."""

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Place:
    """A file: its `path`, its `kind` ("" where its extension tells none), and the pyarrow `filesystem` it is in, None
    for that of the machine."""

    path: str
    kind: str
    filesystem: Any = None

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.path

    @property
    def suffix(self) -> str:
        """The extension, in lower case."""
        return Path(self.path).suffix.lower()

    def open(self, packed: bool = False) -> Any:
        """The file as pyarrow reads it; with `packed` a stream, unpacked by its extension."""
        import pyarrow as pa

        if self.filesystem is None:
            os.close(open_regular(Path(self.path), self.name))
            with foreign(f"{self.name} cannot be opened"):
                return pa.input_stream(self.path) if packed else pa.OSFile(self.path)
        with foreign(f"{self.name} cannot be opened"):
            if packed:
                return self.filesystem.open_input_stream(self.path)
            return self.filesystem.open_input_file(self.path)


@dataclass(frozen=True)
class Found:
    """What a path leads to: one file or several (`many`, which a folder of one file has as well), and the `part`, a
    column or a dataset, that was named after #."""

    name: str
    places: tuple[Place, ...]
    part: str = ""
    many: bool = False


def kind_of(path: str) -> str:
    """The kind that the extension of `path` tells; "" for none."""
    stem, suffix = os.path.splitext(path.lower())
    kind = _SUFFIXES.get(suffix, "")
    if suffix in _PACKED:
        kind = _SUFFIXES.get(os.path.splitext(stem)[1], "")
        return kind if kind in ("csv", "jsonl") else ""
    return kind


def check_format(form: str | None) -> str | None:
    """Refuse a format that is none."""
    known = {**dict.fromkeys(KINDS), "h5": "hdf5", "feather": "arrow", "ipc": "arrow", "ndjson": "jsonl"}
    if form is None:
        return None
    name = form.lower().lstrip(".")
    if name not in known:
        raise InputError(f"format {form!r} is unknown; it must be one of {', '.join(KINDS)}")
    return known[name] or name


def is_uri(path: object) -> bool:
    """Whether `path` names a file system besides the file."""
    return isinstance(path, str) and _URI.match(path) is not None


def split_part(path: str) -> tuple[str, str]:
    """File and part of FILE#PART; `path` and no part where something is there under the whole name."""
    file, mark, part = path.rpartition("#")
    if not mark or not file or (not is_uri(path) and look_up(Path(path), path) is not None):
        return path, ""
    folder = not kind_of(file) and not is_uri(file) and not _is_pattern(file)
    return (path, "") if folder and look_up(Path(file), file) is None else (file, part)


def find(given: PathLike | Sequence[PathLike], *, form: str | None = None, filesystem: Any = None) -> Found:
    """The files that a path, or a list of paths, leads to; `form` is their kind where it is given.

    Raises `MissingError` for what is not there, `InputError` for an empty folder or list, or files of several kinds.
    """
    form = check_format(form)
    if not isinstance(given, str | os.PathLike):
        paths = [os.fsdecode(one) for one in given]
        if not paths:
            raise InputError("the list of files is empty: at least one is needed")
        found = [find(path, form=form, filesystem=filesystem) for path in paths]
        places = tuple(place for one in found for place in one.places)
        parts = {one.part for one in found}
        if len(parts) > 1:
            raise InputError(f"{paths[0]} and others name different parts, {', '.join(sorted(parts))}: name one")
        return _checked(Found(f"{paths[0]} and {len(paths) - 1} more", places, parts.pop(), True))
    text = os.fsdecode(given)
    if filesystem is not None or is_uri(text):
        return _checked(_remote(text, form, filesystem))
    path, part = split_part(text)
    if look_up(Path(path), path) is None and _is_pattern(path):
        matches = [Path(one) for one in sorted(glob.glob(path, recursive=True))]
        files = [file for file in matches if not file.is_dir() and not file.name.startswith(_HIDDEN)]
        if not files:
            raise MissingError(f"no file matches {path}")
        return _checked(Found(path, tuple(_place(file, form) for file in files), part, True))
    if is_directory(Path(path), text):
        return _checked(Found(path, tuple(_place(file, form) for file in _files_in(Path(path))), part, True))
    return Found(path, (_place(Path(path), form),), part)


def _is_pattern(path: str) -> bool:
    return any(mark in path for mark in "*?[")


def _place(path: Path, form: str | None) -> Place:
    return Place(str(path), form or kind_of(path.name))


def _files_in(folder: Path) -> list[Path]:
    try:
        return sorted(
            path
            for path in folder.rglob("*")
            if not path.is_dir() and not any(part.startswith(_HIDDEN) for part in path.relative_to(folder).parts)
        )
    except OSError as error:
        raise StorageError(f"{folder} cannot be listed: {error.strerror}") from error


def _remote(text: str, form: str | None, filesystem: Any) -> Found:
    """Files of another file system than the machine's, as pyarrow or fsspec reach it."""
    import pyarrow.fs as fs

    file, mark, after = text.rpartition("#")
    path, part = (file, after) if mark else (text, "")
    with foreign(f"{path} cannot be reached"):
        if filesystem is None:
            system, inner = fs.FileSystem.from_uri(path)
        else:
            system, inner = fs._ensure_filesystem(filesystem), _URI.sub("", path)
        info = system.get_file_info(inner)
        if info.type == fs.FileType.NotFound:
            raise MissingError(f"{path} does not exist")
        if info.type == fs.FileType.File:
            return Found(path, (Place(inner, form or kind_of(inner), system),), part)
        inside = system.get_file_info(fs.FileSelector(inner, recursive=True))
    names = sorted(one.path for one in inside if one.type == fs.FileType.File)
    head = len(inner.rstrip("/")) + 1
    shown = [name for name in names if not any(step.startswith(_HIDDEN) for step in name[head:].split("/"))]
    return Found(path, tuple(Place(name, form or kind_of(name), system) for name in shown), part, True)


def _checked(found: Found) -> Found:
    """Refuse no files, or files of several kinds."""
    if not found.places:
        raise InputError(f"{found.name} has no files: a folder of vectors has its parts, one file or more")
    first = found.places[0]
    splits = sorted({match[1] for place in found.places if (match := _SPLIT.fullmatch(Path(place.path).name))})
    if len(splits) > 1:
        raise InputError(
            f"{found.name} has several splits, {' and '.join(splits)}: name one, as {found.name}/{splits[-1]}-*"
        )
    for place in found.places:
        if place.kind != first.kind:
            raise InputError(
                f"{found.name} has files of several kinds, {Path(first.path).name} and {Path(place.path).name}: name "
                f"those that are meant, as {found.name}/*{first.suffix}"
            )
    return found
