"""The root zarr.json of an index: its content, the features that a reader must know, and a checksum of itself.

docs/FORMAT.md, sections "Manifest", "Integrity" and "Versioning and features", is the normative text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from spann._kernels.checksum import crc32c
from spann.errors import CorruptionError, FormatError, InputError
from spann.format.json_text import parse_json, shown, to_json
from spann.format.layout import ArrayLayout

FORMAT_VERSION = 1
"""Version of the format that this spann writes, and the newest version that it reads."""

KNOWN_FEATURES: frozenset[str] = frozenset(
    {"appended", "attributes", "bfloat16", "bit", "codes", "deleted", "names", "shapes"}
)
"""Names of the optional parts of the format that this spann understands. Persistent."""

LARGEST_MANIFEST = 4 << 20
"""The most bytes of a manifest. Parsed, it takes a multiple of that in memory."""

LONGEST_NAME = 200
"""The most characters of an array's name. With dots for slashes it becomes the name of a directory."""

INTEGRITY = "integrity"
"""Group of the checksum arrays. No other array may lie in it."""

GROUP: Mapping[str, Any] = {"zarr_format": 3, "node_type": "group", "attributes": {}}
"""Metadata of every group but the root."""

RESERVED = ("format_version", "features", "generation", "created_by", "integrity", "checksum")
"""Attributes that belong to the format. The caller's attributes lie beside them."""

# The indent makes the match unique. At this depth there are only spann's attributes, and the names of nodes, whose
# values are objects. No string can hold a newline.
_CHECKSUM_LINE = re.compile(rb'^      "checksum": "([0-9a-f]{8})",\n', re.MULTILINE)
_NAME = re.compile(r"[a-z0-9_]+(/[a-z0-9_]+)*")
_CRC = re.compile(r"[0-9a-f]{8}")


@dataclass(frozen=True)
class Manifest:
    """A root document that has been checked: spann's attributes, every array by path, and the paths of the groups."""

    attributes: dict[str, Any]
    arrays: dict[str, ArrayLayout]
    groups: list[str]

    def nodes(self) -> dict[str, Any]:
        """The metadata of every group and array below the root, by path."""
        arrays = {name: layout.metadata() for name, layout in self.arrays.items()}
        return dict(sorted({**dict.fromkeys(self.groups, GROUP), **arrays}.items()))

    def text(self) -> bytes:
        """The bytes that a root zarr.json of this content must have."""
        return to_json(_document(self.attributes, self.nodes()))

    @property
    def data_arrays(self) -> list[str]:
        """Names of all arrays but the checksum arrays."""
        return [name for name in self.arrays if not name.startswith(f"{INTEGRITY}/")]


def check_name(name: str, taken: Iterable[str]) -> None:
    """Raises `InputError` unless `name` is a valid array name and does not collide with those `taken`."""
    if not _is_name(name):
        raise InputError(
            f"array name {name!r} must be parts of a-z, 0-9 and _ joined by /, outside {INTEGRITY}/ and of at most "
            f"{LONGEST_NAME} characters"
        )
    for other in taken:
        if f"{name}/".startswith(f"{other}/") or other.startswith(f"{name}/"):
            raise InputError(f"array name {name!r} collides with {other!r}")


def _is_name(name: str) -> bool:
    return len(name) <= LONGEST_NAME and bool(_NAME.fullmatch(name)) and name.split("/")[0] != INTEGRITY


def checksum_array(name: str) -> str:
    """Path of the array with the chunk checksums of array `name`. Names have no dots, so no two paths collide."""
    return f"{INTEGRITY}/{name.replace('/', '.')}"


def groups_of(arrays: Iterable[str]) -> list[str]:
    """Every group on the paths of `arrays`, without the root, in order."""
    return sorted({"/".join(parts[:n]) for parts in (a.split("/") for a in arrays) for n in range(1, len(parts))})


def crc_text(data: Any) -> str:
    """A CRC-32C for JSON: eight lower-case hexadecimal digits."""
    return f"{crc32c(data):08x}"


def check_attributes(attributes: Mapping[str, Any], features: Iterable[str]) -> None:
    """Raises `InputError` for an attribute with a reserved name, or a feature that this spann cannot read back."""
    for name in RESERVED:
        if name in attributes:
            raise InputError(f"attribute {name!r} belongs to the format and cannot be given")
    for feature in features:
        if feature not in KNOWN_FEATURES:
            raise InputError(f"feature {feature!r} is unknown to this spann")


def write_root(
    attributes: Mapping[str, Any],
    features: Iterable[str],
    generation: int,
    created_by: str,
    integrity: Mapping[str, str],
    metadata: Mapping[str, Any],
) -> bytes:
    """The bytes of the root zarr.json. Nothing in it depends on the time or on where the index lies."""
    own = {
        **attributes,
        "format_version": FORMAT_VERSION,
        "features": sorted(features),
        "generation": generation,
        "created_by": created_by,
        "integrity": dict(integrity),
    }
    document = _document(own, metadata)
    own["checksum"] = crc_text(to_json(document))
    return to_json(document)


def _document(own: Mapping[str, Any], metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **GROUP,
        "attributes": {"spann": own},
        "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": dict(metadata)},
    }


def parse_root(data: bytes, where: str) -> Manifest:
    """Checks the bytes of a root zarr.json, in the order: JSON, a spann index, version, checksum, features, content.

    Raises `CorruptionError` for damage, and `FormatError` for an undamaged manifest that this spann cannot read.
    """
    document = parse_json(data, where)
    own = spann_attributes(document)
    if own is None:
        raise FormatError(f"{where}: not a spann index: expected a Zarr v3 group with an attribute 'spann'")
    _check_version(own.get("format_version"), where)
    _check_checksum(data, where)
    _check_features(own.get("features"), where)
    if type(own.get("generation")) is not int or own["generation"] < 0:
        raise FormatError(f"{where}: generation is {shown(own.get('generation'))}; it must be a whole number from 0")
    if not isinstance(own.get("created_by"), str):
        raise FormatError(f"{where}: created_by is {shown(own.get('created_by'))}; it must be a name")
    arrays = _parse_nodes(document, where)
    manifest = Manifest(own, arrays, groups_of(arrays))
    names = manifest.data_arrays
    integrity = own.get("integrity")
    if (
        not all(map(_is_name, names))
        or sorted(arrays) != sorted([*names, *map(checksum_array, names)])
        or not isinstance(integrity, dict)
        or sorted(integrity) != sorted(names)
        or not all(isinstance(crc, str) and _CRC.fullmatch(crc) for crc in integrity.values())
    ):
        raise FormatError(f"{where}: the arrays and their checksums do not belong together")
    return manifest


def _parse_nodes(document: dict[str, Any], where: str) -> dict[str, ArrayLayout]:
    """The arrays of the consolidated metadata. Checks that everything else there is a group on their paths."""
    consolidated = document.get("consolidated_metadata")
    nodes = consolidated.get("metadata") if isinstance(consolidated, dict) else None
    if not isinstance(nodes, dict):
        raise FormatError(f"{where}: consolidated metadata is missing")
    groups = sorted(path for path, node in nodes.items() if node == GROUP)
    arrays = {
        path: ArrayLayout.parse(node, f"{where} ({shown(path)[1:-1]})") for path, node in nodes.items() if node != GROUP
    }
    if groups != groups_of(arrays):
        raise FormatError(f"{where}: the groups are not those on the paths of the arrays")
    return arrays


def spann_attributes(document: Any) -> dict[str, Any] | None:
    """The attribute 'spann' of a Zarr v3 group's metadata, or None for any other document."""
    if not isinstance(document, dict) or document.get("zarr_format") != 3 or document.get("node_type") != "group":
        return None
    attributes = document.get("attributes")
    own = attributes.get("spann") if isinstance(attributes, dict) else None
    return own if isinstance(own, dict) else None


def _check_version(version: object, where: str) -> None:
    if type(version) is not int or version < 1:
        raise FormatError(f"{where}: format version {shown(version)} is not a version; it must be a number from 1")
    if version > FORMAT_VERSION:
        raise FormatError(
            f"{where}: the index has format version {shown(version)}, this spann reads versions up to "
            f"{FORMAT_VERSION}: upgrade spann-index"
        )


def _check_checksum(data: bytes, where: str) -> None:
    lines = list(_CHECKSUM_LINE.finditer(data))
    if len(lines) != 1:
        raise CorruptionError(f"{where}: {len(lines)} lines hold its checksum, expected one")
    line = lines[0]
    found = crc_text(data[: line.start()] + data[line.end() :])
    if found.encode("ascii") != line[1]:
        raise CorruptionError(f"{where}: its checksum is {found}, expected {line[1].decode('ascii')}")


def _check_features(features: object, where: str) -> None:
    if not isinstance(features, list) or not all(isinstance(f, str) for f in features):
        raise FormatError(f"{where}: the features must be a list of names")
    unknown = [f for f in features if f not in KNOWN_FEATURES]
    if unknown:
        known = ", ".join(sorted(KNOWN_FEATURES)) or "none"
        raise FormatError(
            f"{where}: the index needs feature {shown(unknown[0])}; this spann knows {known}: upgrade spann-index"
        )
    if sorted(set(features)) != features:
        raise FormatError(f"{where}: the features are not sorted, each once")
