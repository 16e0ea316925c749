# Declarations of ext/c/io/io.h.
from libc.stdint cimport int64_t, uint32_t, uint64_t


cdef extern from "io/io.h" nogil:
    ctypedef struct spann_io:
        pass
    ctypedef struct spann_file:
        int fd
    ctypedef struct spann_read:
        spann_file file
        uint32_t bytes
        uint64_t offset
        void *buffer
        uint64_t tag
    ctypedef struct spann_read_done:
        uint64_t tag
        int64_t result
    enum:
        SPANN_IO_AUTO
        SPANN_IO_URING
        SPANN_IO_POOL
        SPANN_IO_SYNC
        SPANN_IO_MAX_DEPTH
    spann_io *spann_io_open(int, unsigned int, int *)
    int spann_io_backend(const spann_io *)
    int spann_io_start(spann_io *, const spann_read *)
    int spann_io_submit(spann_io *)
    int spann_io_wait(spann_io *, spann_read_done *, unsigned int, unsigned int)
    unsigned int spann_io_outstanding(const spann_io *)
    void spann_io_close(spann_io *)
