"""Thin doors to ext/c/kernels/distance.h and simd.h; spann._kernels.distances checks the arguments."""

from libc.stddef cimport size_t
from libc.stdint cimport uint32_t

from c_kernels cimport *

cdef extern from "base/simd.h" nogil:
    int spann_simd_level()
    int spann_simd_widest()

# Numbers of metrics and element types. hamming is l2 of bits.
METRICS = {"l2": SPANN_L2, "ip": SPANN_IP, "cosine": SPANN_COS, "hamming": SPANN_L2}
ELEMENTS = {
    "uint8": SPANN_U8,
    "int8": SPANN_I8,
    "float16": SPANN_F16,
    "float32": SPANN_F32,
    "bfloat16": SPANN_BF16,
    "bit": SPANN_BITS,
}


def simd_level():
    return spann_simd_level()


def simd_widest():
    return spann_simd_widest()


def score(int metric, int dtype, const unsigned char[::1] query, const unsigned char[:, ::1] rows, size_t dim,
          float[::1] out):
    cdef const spann_kernels *kernels = spann_kernels_get()
    if kernels == NULL:
        return -1
    with nogil:
        kernels.score[metric][dtype](&query[0], &rows[0, 0], rows.shape[0], dim, &out[0])
    return 0


def gather(int metric, int dtype, const unsigned char[::1] query, const unsigned char[:, ::1] rows,
           const uint32_t[::1] index, size_t dim, float[::1] out):
    cdef const spann_kernels *kernels = spann_kernels_get()
    if kernels == NULL:
        return -1
    with nogil:
        kernels.gather[metric][dtype](&query[0], &rows[0, 0], &index[0], index.shape[0], dim, &out[0])
    return 0


def measure(int metric, int dtype, const unsigned char[::1] query, const unsigned char[:, ::1] rows, size_t dim,
            double[::1] out):
    cdef const spann_kernels *kernels = spann_kernels_get()
    cdef Py_ssize_t i
    if kernels == NULL:
        return -1
    with nogil:
        for i in range(rows.shape[0]):
            out[i] = kernels.measure[metric][dtype](&query[0], &rows[i, 0], dim)
    return 0


def dot_tile(const float[:, ::1] rows, const float[:, ::1] tile, float[:, ::1] out):
    cdef const spann_kernels *kernels = spann_kernels_get()
    if kernels == NULL:
        return -1
    with nogil:
        kernels.dot_tile(&rows[0, 0], &tile[0, 0], rows.shape[0], rows.shape[1], &out[0, 0])
    return 0
