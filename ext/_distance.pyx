"""Thin doors to ext/c/kernels/distance.h and simd.h; spann._kernels.distances checks the arguments."""

from libc.stddef cimport size_t
from libc.stdint cimport uint32_t


cdef extern from "base/simd.h" nogil:
    int spann_simd_level()
    int spann_simd_widest()

cdef extern from "kernels/distance.h" nogil:
    ctypedef void (*spann_score_fn)(const void *, const void *, size_t, size_t, float *) noexcept nogil
    ctypedef void (*spann_gather_fn)(const void *, const void *, const uint32_t *, size_t, size_t,
                                     float *) noexcept nogil
    ctypedef double (*spann_measure_fn)(const void *, const void *, size_t) noexcept nogil
    ctypedef struct spann_kernels:
        spann_score_fn score[3][6]
        spann_gather_fn gather[3][6]
        spann_measure_fn measure[3][6]
        void (*dot_tile)(const float *, const float *, size_t, size_t, float *) noexcept nogil
    const spann_kernels *spann_kernels_get()


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
