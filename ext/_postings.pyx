"""Thin doors to ext/c/format/posting_format.h and ext/c/building/pages.h. spann._kernels.postings checks arguments."""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t


from c_format cimport *
from c_kernels cimport spann_kernels, spann_kernels_get


cdef extern from "building/pages.h" nogil:
    int spann_arrange(const spann_kernels *, float *, size_t, const int64_t *, size_t, const int64_t *, size_t,
                      int64_t *)


# Numbers that spann._kernels.postings must have, too.
PAGE = SPANN_PAGE
SLACK = SPANN_SLACK
HEADER_BYTES = SPANN_HEADER_BYTES
FACTOR_BYTES = SPANN_FACTOR_BYTES
MAX_DIRECTIONS = SPANN_MAX_DIRECTIONS


def posting_parts(size_t id_bytes, size_t row_bytes, size_t code_bytes, size_t entries, size_t primaries):
    """Offsets of ids, add, scale, rows and codes in a posting of codes, and its size."""
    cdef spann_widths widths
    cdef spann_posting_parts p
    widths.id, widths.row, widths.code = id_bytes, row_bytes, code_bytes
    p = spann_parts_of_posting(&widths, entries, primaries)
    return p.ids, p.add, p.scale, p.rows, p.codes, p.end


def shape_parts(size_t code_bytes, size_t directions):
    """Offsets of spread, rest, offsets, add, scale and codes in a shape, and its size."""
    cdef spann_shape shape
    cdef spann_shape_parts p = spann_parts_of_shape(code_bytes, directions)
    cdef char *begin = <char *> &shape
    return <char *> &shape.spread - begin, <char *> &shape.rest - begin, p.offsets, p.add, p.scale, p.codes, p.end


def pack(const unsigned char[:, ::1] ids, const unsigned char[:, ::1] vectors, const uint16_t[::1] lengths,
         const uint64_t[::1] starts, unsigned char[::1] out, uint32_t[::1] crcs):
    with nogil:
        spann_pack_postings(&ids[0, 0], ids.shape[1], &vectors[0, 0], vectors.shape[1], &lengths[0], &starts[0],
                            lengths.shape[0], &out[0], &crcs[0])


def pack_coded(const unsigned char[:, ::1] headers, const unsigned char[:, ::1] ids, const unsigned char[:, ::1] add,
               const unsigned char[:, ::1] scale, const unsigned char[:, ::1] rows, size_t row_bytes,
               const unsigned char[:, ::1] codes, const uint16_t[::1] lengths, const uint16_t[::1] primaries,
               const uint64_t[::1] starts, unsigned char[::1] out, uint32_t[::1] crcs):
    cdef spann_coded given
    given.headers = &headers[0, 0]
    given.ids = &ids[0, 0]
    given.add = &add[0, 0]
    given.scale = &scale[0, 0]
    given.rows = &rows[0, 0] if rows.shape[0] else NULL
    given.codes = &codes[0, 0]
    given.widths.id, given.widths.row, given.widths.code = ids.shape[1], row_bytes, codes.shape[1]
    with nogil:
        spann_pack_coded(&given, &lengths[0], &primaries[0], &starts[0], lengths.shape[0], &out[0], &crcs[0])


def arrange(float[:, ::1] x, const int64_t[::1] lengths, const int64_t[::1] bounds, int64_t[::1] order):
    cdef const spann_kernels *kernels = spann_kernels_get()
    cdef const int64_t *first = &bounds[0] if bounds.shape[0] else NULL
    cdef int status
    if kernels == NULL:
        return -2
    with nogil:
        status = spann_arrange(kernels, &x[0, 0], x.shape[1], &lengths[0], lengths.shape[0], first, bounds.shape[0],
                               &order[0])
    return status
