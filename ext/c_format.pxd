# Declarations of ext/c/format/posting_format.h.
from libc.stddef cimport size_t
from libc.stdint cimport uint16_t, uint32_t, uint64_t


cdef extern from "format/posting_format.h" nogil:
    enum:
        SPANN_PAGE
        SPANN_SLACK
        SPANN_MAX_DIRECTIONS
        SPANN_HEADER_BYTES
        SPANN_FACTOR_BYTES
    ctypedef struct spann_code_header:
        pass
    ctypedef struct spann_widths:
        size_t id
        size_t row
        size_t code
    ctypedef struct spann_posting_parts:
        size_t ids
        size_t add
        size_t scale
        size_t rows
        size_t codes
        size_t end
    spann_posting_parts spann_parts_of_posting(const spann_widths *, size_t, size_t)
    ctypedef struct spann_shape:
        float spread
        float rest
    ctypedef struct spann_shape_parts:
        size_t offsets
        size_t add
        size_t scale
        size_t codes
        size_t end
    spann_shape_parts spann_parts_of_shape(size_t, size_t)
    ctypedef struct spann_coded:
        const unsigned char *headers
        const unsigned char *ids
        const unsigned char *add
        const unsigned char *scale
        const unsigned char *rows
        const unsigned char *codes
        spann_widths widths
    void spann_pack_postings(const unsigned char *, size_t, const unsigned char *, size_t, const uint16_t *,
                             const uint64_t *, size_t, unsigned char *, uint32_t *)
    void spann_pack_coded(const spann_coded *, const uint16_t *, const uint16_t *, const uint64_t *, size_t,
                          unsigned char *, uint32_t *)
