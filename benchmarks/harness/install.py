"""Puts the wrappers of spann into a checkout of a benchmark: `python install.py HARNESS CHECKOUT`.

HARNESS is ann-benchmarks, big-ann-benchmarks or VectorDBBench. The first two find wrappers in the right folder. The
last has a list of clients, and spann is added to it.
"""

import re
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent

CLIENT = """        if self == DB.Spann:
            from .spann.{module} import {name}

            return {name}

"""


def ann_benchmarks(checkout):
    shutil.copytree(HERE / "ann_benchmarks", checkout / "ann_benchmarks" / "algorithms" / "spann", dirs_exist_ok=True)


def big_ann(checkout):
    shutil.copy(HERE / "big_ann" / "spann_disk.py", checkout / "benchmark" / "algorithms")
    shutil.copy(HERE / "big_ann" / "algos-spann.yaml", checkout)
    shutil.copy(HERE / "big_ann" / "Dockerfile", checkout / "install" / "Dockerfile.spann")


def vectordbbench(checkout):
    package = checkout / "vectordb_bench"
    clients = package / "backend" / "clients"
    shutil.copytree(HERE / "vectordbbench", clients / "spann", dirs_exist_ok=True)
    known = clients / "__init__.py"
    text = known.read_text(encoding="utf-8")
    if "DB.Spann" not in text:
        text = _insert(text, r'^    Test = "test"\n', '    Spann = "Spann"\n')
        for method, module, name in (
            ("init_cls", "spann", "Spann"),
            ("config_cls", "config", "SpannConfig"),
            ("case_config_cls", "config", "SpannIndexConfig"),
        ):
            head = rf'^    def {method}\((?:[^)]|\n)*?\)[^\n]*:[^\n]*\n(?:        """[^"]*"""\n)?'
            text = _insert(text, head, CLIENT.format(module=module, name=name))
        known.write_text(text, encoding="utf-8")
    program = package / "cli" / "vectordbbench.py"
    text = program.read_text(encoding="utf-8")
    if "clients.spann" not in text:
        text = _insert(text, r"^from \.cli import cli\n", "from ..backend.clients.spann.cli import Spann\n")
        program.write_text(_insert(text, r"^cli\.add_command\(\w+\)\n", "cli.add_command(Spann)\n"), encoding="utf-8")


def _insert(text, after, lines):
    """`text` with `lines` inserted after the first match of `after`."""
    found = re.search(after, text, re.MULTILINE)
    if found is None:
        raise SystemExit(f"this version of VectorDBBench has no {after!r}, behind which spann would go")
    return text[: found.end()] + lines + text[found.end() :]


HARNESSES = {
    "ann-benchmarks": (ann_benchmarks, "ann_benchmarks/algorithms"),
    "big-ann-benchmarks": (big_ann, "benchmark/algorithms"),
    "VectorDBBench": (vectordbbench, "vectordb_bench/backend/clients"),
}
"""How each harness is installed, and a folder that its checkout has."""


def install(harness, checkout):
    if harness not in HARNESSES:
        raise SystemExit(f"harness {harness!r} is unknown; there are {', '.join(HARNESSES)}")
    how, folder = HARNESSES[harness]
    if not (checkout / folder).is_dir():
        raise SystemExit(f"{checkout} is not a checkout of {harness}: it has no {folder}")
    how(checkout)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    install(sys.argv[1], Path(sys.argv[2]))
