"""The native modules. Everything else about the package is in pyproject.toml.

Every module is built for the stable ABI (one wheel for CPython 3.11 and later) and for the baseline of its
architecture: wider SIMD is chosen at run time (ext/c/simd.h), so a wheel runs on any machine.
"""

import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

# -ffp-contract=off: a fused multiply-add on one machine and not on another would make distances, and so indexes,
# differ from machine to machine; the kernels get their width from explicit lanes instead (ext/c/distance.inc).
C_FLAGS = ["-O3", "-std=gnu11", "-ffp-contract=off", "-fno-math-errno", "-fvisibility=hidden", "-Wall", "-Wextra"]
# Cython's own output trips these; the hand-written C is compiled without them in .ci/run.
CYTHON_FLAGS = ["-Wno-unused-function", "-Wno-unused-parameter", "-Wno-missing-field-initializers", "-Wno-sign-compare"]

MODULES = {
    "_checksum": ["crc32c.c"],
    "_distance": ["distance.c", "simd.c"],
    "_cluster": ["cluster.c", "distance.c", "simd.c"],
    "_postings": ["postings.c", "pages.c", "crc32c.c", "distance.c", "simd.c"],
    "_codes": ["codes.c", "simd.c"],
    "_io": ["io.c", "io_uring.c", "io_pool.c"],
    "_search": [
        *("pipeline.c", "batch.c", "query.c", "prune.c", "rerank.c", "navigate.c", "candidates.c", "topk.c"),
        *("io.c", "io_uring.c", "io_pool.c", "codes.c", "distance.c", "simd.c", "crc32c.c"),
    ],
}

HEADERS = sorted(str(p) for p in [*Path("ext/c").glob("*.h"), *Path("ext/c").glob("*.inc")])

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
        compiler_directives={"language_level": 3, "boundscheck": False, "wraparound": False, "cdivision": True},
        build_dir=None,
        quiet="-v" not in sys.argv,
    ),
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
