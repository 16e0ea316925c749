"""Thin door to ext/c/postings.h; spann._kernels.postings checks the arguments."""

from libc.stddef cimport size_t
from libc.stdint cimport uint16_t, uint32_t, uint64_t


cdef extern from "postings.h" nogil:
    void spann_pack_postings(const unsigned char *, size_t, const unsigned char *, size_t, const uint16_t *,
                             const uint64_t *, size_t, unsigned char *, uint32_t *)


def pack(const unsigned char[:, ::1] ids, const unsigned char[:, ::1] vectors, const uint16_t[::1] lengths,
         const uint64_t[::1] starts, unsigned char[::1] out, uint32_t[::1] crcs):
    with nogil:
        spann_pack_postings(&ids[0, 0], ids.shape[1], &vectors[0, 0], vectors.shape[1], &lengths[0], &starts[0],
                            lengths.shape[0], &out[0], &crcs[0])
