"""The includes of ext/c follow the order that ext/README.md gives, and have no circle."""

from __future__ import annotations

import re
from pathlib import Path

EXT = Path(__file__).parents[2] / "ext"
INCLUDE = re.compile(r'^#include "([^"]+)"', re.MULTILINE)


def listed(title):
    """Names in the numbered list under a title, in its order."""
    text = (EXT / "README.md").read_text().split(f"## {title}\n")[1].split("\n## ")[0]
    return re.findall(r"^\d+\. `(\w+)`", text, re.MULTILINE)


def includes():
    """(file, included file), as paths below ext/c."""
    for file in sorted((EXT / "c").rglob("*.[chi]*")):
        for included in INCLUDE.findall(file.read_text()):
            assert (EXT / "c" / included).exists(), f"{file.name} includes {included}: name its directory"
            yield file.relative_to(EXT / "c"), Path(included)


def test_every_directory_and_every_file_of_the_search_is_listed():
    assert sorted(listed("Layers of ext/c")) == sorted(path.name for path in (EXT / "c").iterdir())
    stems = {path.stem for path in (EXT / "c" / "search").iterdir()}
    assert sorted(listed("Inside ext/c/search")) == sorted(stems)


def test_layers_include_only_those_before_them():
    order = listed("Layers of ext/c")
    for file, included in includes():
        assert order.index(included.parts[0]) <= order.index(file.parts[0]), f"{file} includes {included}"


def test_files_of_the_search_include_only_those_before_them():
    order = listed("Inside ext/c/search")
    for file, included in includes():
        if included.parts[0] == file.parts[0] == "search":
            assert order.index(included.stem) <= order.index(file.stem), f"{file} includes {included}"


def test_no_circle_between_files():
    graph: dict[Path, set[Path]] = {}
    for file, included in includes():
        graph.setdefault(file, set()).add(included)

    def reach(start, file, seen):
        for included in graph.get(file, ()):
            assert included != start, f"{start} includes itself, by {file}"
            if included not in seen:
                seen.add(included)
                reach(start, included, seen)

    for file in graph:
        reach(file, file, set())
