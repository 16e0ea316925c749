"""The native modules. Everything else about the package is in pyproject.toml.

Every module is built for the stable ABI (one wheel for CPython 3.11 and later) and for the baseline of its
architecture: wider SIMD is chosen at run time (ext/c/base/simd.h), so a wheel runs on any machine.
"""

import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

# -ffp-contract=off: a fused multiply-add on one machine and not on another would make distances, and so indexes,
# differ from machine to machine; the kernels get their width from explicit lanes instead (ext/c/kernels/distance.inc).
C_FLAGS = ["-O3", "-std=gnu11", "-ffp-contract=off", "-fno-math-errno", "-fvisibility=hidden", "-Wall", "-Wextra"]
# Cython's own output trips these; the hand-written C is compiled without them in .ci/run.
CYTHON_FLAGS = ["-Wno-unused-function", "-Wno-unused-parameter", "-Wno-missing-field-initializers", "-Wno-sign-compare"]

SIMD, CRC32C = "base/simd.c", "base/crc32c.c"
DISTANCE, CODES = "kernels/distance.c", "kernels/codes.c"
IO = ["io/io.c", "io/io_uring.c", "io/io_pool.c"]
SEARCH = [
    *("query_major", "posting_major", "searcher", "reads", "query", "visits", "rank", "places", "space"),
    *("exact_postings", "coded_postings", "score", "rerank"),
    *("state", "navigate", "candidates", "topk", "pinned"),
]

MODULES = {
    "_checksum": [CRC32C],
    "_distance": [DISTANCE, SIMD],
    "_cluster": ["building/cluster.c", DISTANCE, SIMD],
    "_postings": ["format/posting_format.c", "building/pages.c", CRC32C, DISTANCE, SIMD],
    "_codes": [CODES, SIMD],
    "_io": IO,
    "_search": [*(f"search/{name}.c" for name in SEARCH), *IO, CODES, DISTANCE, SIMD, CRC32C],
}

HEADERS = sorted(str(p) for pattern in ("c/*/*.h", "c/*/*.inc", "*.pxd") for p in Path("ext").glob(pattern))

extensions = [
    Extension(
        f"spann._kernels.{name}",
        sources=[f"ext/{name}.pyx", *(f"ext/c/{source}" for source in sources)],
        depends=HEADERS,
        include_dirs=["ext/c"],
        extra_compile_args=C_FLAGS + CYTHON_FLAGS,
        define_macros=[("Py_LIMITED_API", "0x030B0000"), ("_GNU_SOURCE", "1")],
        py_limited_api=True,
    )
    for name, sources in MODULES.items()
    if Path(f"ext/{name}.pyx").exists()
]

setup(
    ext_modules=cythonize(
        extensions,
        include_path=["ext"],
        compiler_directives={"language_level": 3, "boundscheck": False, "wraparound": False, "cdivision": True},
        build_dir=None,
        quiet="-v" not in sys.argv,
    ),
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
