"""Objects of a manifest, read entry by entry: each must be of the right type and in its range."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from spann.errors import FormatError
from spann.format.json_text import shown


class Entries:
    """Reads an object of the manifest entry by entry, and refuses an entry that is wrong."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self._values, self._where = values, where

    def _refuse(self, name: str, must: str) -> NoReturn:
        found = f"is {shown(self._values[name])}" if name in self._values else "is missing"
        raise FormatError(f"{self._where}: {name} {found}; it must be {must}")

    def number(self, name: str, least: int, most: int) -> int:
        value = self._values.get(name)
        if type(value) is not int or not least <= value <= most:
            self._refuse(name, f"a whole number from {least} to {most}")
        return value

    def real(self, name: str, least: float, most: float) -> float:
        value = self._values.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= most:
            self._refuse(name, f"a number from {least:g} to {most:g}" if least < most else f"{least}")
        return float(value)

    def one_of(self, name: str, known: Any) -> Any:
        value = self._values.get(name)
        if not any(type(value) is type(one) and value == one for one in known):
            self._refuse(name, f"one of {', '.join(map(str, known))}")
        return value

    def object(self, name: str) -> Mapping[str, Any]:
        value = self._values.get(name)
        if not isinstance(value, dict):
            self._refuse(name, "an object")
        return value

    def list_of(self, name: str, kind: type) -> list[Any]:
        value = self._values.get(name)
        if not isinstance(value, list) or not all(isinstance(one, kind) for one in value):
            self._refuse(name, f"a list of {kind.__name__}")
        return value

    def absent(self, name: str, feature: str) -> int:
        if name in self._values:
            raise FormatError(f"{self._where}: {name} is given, but the index lacks the feature {feature}")
        return 0
