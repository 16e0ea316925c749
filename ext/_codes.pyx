"""Thin doors to ext/c/kernels/codes.h; spann._kernels.codes checks the arguments."""

from libc.stddef cimport size_t
from libc.stdint cimport int8_t, int32_t, int64_t, uint16_t, uint32_t

from c_format cimport spann_code_header


cdef extern from "kernels/codes.h" nogil:
    ctypedef struct spann_code_query:
        const void *data
        float step
        float offset
        float noise
        uint32_t padded
        uint32_t bits
    ctypedef struct spann_code_params:
        size_t dim
        unsigned bits
        int ip
        const float *origin
        const unsigned char *signs
        const int8_t *far
    ctypedef struct spann_code_kernels:
        void (*estimate)(const spann_code_query *, const unsigned char *, const unsigned char *, const unsigned char *,
                         const spann_code_header *, float, size_t, float *) noexcept nogil
        void (*dots)(const spann_code_query *, const unsigned char *, size_t, int32_t *) noexcept nogil
        void (*rotate)(const float *, size_t, size_t, const unsigned char *, float *) noexcept nogil
        void (*prepare)(const float *, size_t, unsigned, void *, spann_code_query *) noexcept nogil
    size_t spann_code_query_bytes(size_t, unsigned)
    const spann_code_kernels *spann_code_kernels_get()
    int spann_encode(const spann_code_kernels *, const spann_code_params *, const float *, const float *,
                     const int64_t *, size_t, unsigned char *, unsigned char *, unsigned char *, spann_code_header *)


def query_bytes(size_t padded, unsigned bits):
    return spann_code_query_bytes(padded, bits)


def rotate(const float[:, ::1] x, const unsigned char[:, ::1] signs, float[:, ::1] out):
    cdef const spann_code_kernels *kernels = spann_code_kernels_get()
    cdef Py_ssize_t i
    if kernels == NULL:
        return -1
    with nogil:
        for i in range(x.shape[0]):
            kernels.rotate(&x[i, 0], x.shape[1], out.shape[1], &signs[0, 0], &out[i, 0])
    return 0


def prepare(const float[::1] x, const unsigned char[:, ::1] signs, float[::1] rotated, unsigned bits,
            unsigned char[::1] buffer):
    cdef const spann_code_kernels *kernels = spann_code_kernels_get()
    cdef spann_code_query query
    if kernels == NULL:
        return None
    with nogil:
        kernels.rotate(&x[0], x.shape[0], rotated.shape[0], &signs[0, 0], &rotated[0])
        kernels.prepare(&rotated[0], rotated.shape[0], bits, &buffer[0], &query)
    return query.step, query.offset, query.noise


def dots(const unsigned char[::1] buffer, size_t padded, unsigned bits, const unsigned char[:, ::1] codes,
         const unsigned char[:, ::1] tail, size_t tail_rows, int32_t[::1] out):
    """`tail` repeats the last `tail_rows` rows of codes, followed by room that kernels may read."""
    cdef const spann_code_kernels *kernels = spann_code_kernels_get()
    cdef spann_code_query query
    cdef size_t direct = codes.shape[0] - tail_rows
    if kernels == NULL:
        return -1
    query.data = &buffer[0]
    query.padded = <uint32_t>padded
    query.bits = bits
    with nogil:
        kernels.dots(&query, &codes[0, 0], direct, &out[0])
        kernels.dots(&query, &tail[0, 0], tail_rows, &out[direct])
    return 0


def estimate(const unsigned char[::1] buffer, size_t padded, unsigned bits, float step, float offset,
             const unsigned char[:, ::1] codes, const unsigned char[:, ::1] tail, size_t tail_rows,
             const uint16_t[::1] add, const uint16_t[::1] scale, const float[:, ::1] headers, const float[::1] base,
             const int64_t[::1] starts, const int64_t[::1] lengths, float[::1] out):
    """Scores the entries of the spans (starts[p], lengths[p]), one after the other. `tail` is that of dots."""
    cdef const spann_code_kernels *kernels = spann_code_kernels_get()
    cdef spann_code_query query
    cdef Py_ssize_t p
    cdef int64_t direct_end = codes.shape[0] - <int64_t>tail_rows, at, direct, rest
    cdef size_t written = 0
    cdef const spann_code_header *h
    if kernels == NULL:
        return -1
    query.data = &buffer[0]
    query.step = step
    query.offset = offset
    query.padded = <uint32_t>padded
    query.bits = bits
    with nogil:
        for p in range(starts.shape[0]):
            at = starts[p]
            direct = max(0, min(lengths[p], direct_end - at))
            rest = lengths[p] - direct
            h = <const spann_code_header *>&headers[p, 0]
            if direct > 0:
                kernels.estimate(&query, &codes[at, 0], <const unsigned char *>&add[at],
                                 <const unsigned char *>&scale[at], h, base[p], direct, &out[written])
            if rest > 0:
                at += direct
                kernels.estimate(&query, &tail[at - direct_end, 0], <const unsigned char *>&add[at],
                                 <const unsigned char *>&scale[at], h, base[p], rest, &out[written + direct])
            written += lengths[p]
    return 0


def encode(const float[:, ::1] x, const float[:, ::1] centroids, const int64_t[::1] lengths, const float[::1] origin,
           const unsigned char[:, ::1] signs, unsigned bits, bint ip, const int8_t[::1] far,
           unsigned char[:, ::1] codes, uint16_t[::1] add, uint16_t[::1] scale, float[:, ::1] headers):
    """`far` (postings,) or None. If None, the rule of codes.h tells which postings are far."""
    cdef const spann_code_kernels *kernels = spann_code_kernels_get()
    cdef spann_code_params params
    cdef int status
    if kernels == NULL:
        return -2
    params.dim = x.shape[1]
    params.bits = bits
    params.ip = ip
    params.origin = &origin[0]
    params.signs = &signs[0, 0]
    params.far = &far[0] if far is not None and far.shape[0] else NULL
    with nogil:
        status = spann_encode(kernels, &params, &x[0, 0], &centroids[0, 0], &lengths[0], lengths.shape[0],
                              &codes[0, 0], <unsigned char *>&add[0], <unsigned char *>&scale[0],
                              <spann_code_header *>&headers[0, 0])
    return status
