# Declarations of ext/c/kernels and ext/c/base that more than one module uses.
from libc.stddef cimport size_t
from libc.stdint cimport uint32_t


cdef extern from "kernels/distance.h" nogil:
    ctypedef enum spann_metric:
        SPANN_L2
        SPANN_IP
        SPANN_COS
        SPANN_METRICS
    ctypedef enum spann_dtype:
        SPANN_U8
        SPANN_I8
        SPANN_F16
        SPANN_F32
        SPANN_BF16
        SPANN_BITS
        SPANN_DTYPES
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
