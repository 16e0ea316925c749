"""Thin door to ext/c/io/io.h; spann._kernels.io checks the arguments. Errors are errno; 0 means none."""

from libc.errno cimport EINVAL
from libc.stdint cimport int64_t, uint32_t, uint64_t
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from c_io cimport *

# Ways of reading, best first. AUTO is the first that works.
AUTO = SPANN_IO_AUTO
URING = SPANN_IO_URING
POOL = SPANN_IO_POOL
SYNC = SPANN_IO_SYNC
MAX_DEPTH = SPANN_IO_MAX_DEPTH


cdef enum:
    AT_ONCE = 64  # completions taken by one call


def open_close(int backend, unsigned int depth):
    """Opens and closes a reader. Returns (error, the backend that was opened)."""
    cdef int error = 0, chosen = -1
    cdef spann_io *io
    with nogil:
        io = spann_io_open(backend, depth, &error)
        if io != NULL:
            error = 0
            chosen = spann_io_backend(io)
            spann_io_close(io)
    return error, chosen


# Opened, used and closed without the GIL, so no other Python thread can use it in between.
cdef int read_all(int backend, unsigned int depth, unsigned int least, const int *fds, const int64_t *offsets,
                  const uint32_t *lengths, Py_ssize_t n, unsigned char *at, int64_t *results) noexcept nogil:
    cdef spann_read_done done[AT_ONCE]
    cdef spann_read read
    cdef int status = 0, j
    cdef Py_ssize_t i
    cdef spann_io *io = spann_io_open(backend, depth, &status)
    if io == NULL:
        return status
    for i in range(n):
        read.file.fd = fds[i]
        read.bytes = lengths[i]
        read.offset = <uint64_t> offsets[i]
        read.buffer = at
        read.tag = <uint64_t> i
        at += lengths[i]
        status = spann_io_start(io, &read)
        if status == -EINVAL:
            results[i] = status
        elif status:
            break
    if status == 0 or status == -EINVAL:
        status = spann_io_submit(io)
    while status >= 0 and spann_io_outstanding(io):
        status = spann_io_wait(io, done, AT_ONCE, least)
        for j in range(status):
            results[done[j].tag] = done[j].result
    spann_io_close(io)
    return -status if status < 0 else 0


def read_many(int backend, unsigned int depth, unsigned int least, const int[::1] fds, const int64_t[::1] offsets,
              const uint32_t[::1] lengths, unsigned char[::1] out, int64_t[::1] results):
    cdef int error
    with nogil:
        error = read_all(backend, depth, least, &fds[0], &offsets[0], &lengths[0], offsets.shape[0], &out[0],
                         &results[0])
    return error


# A buffer's number is the tag of its read. A finished read gives its buffer to the next one.
cdef int read_through(spann_io *io, unsigned int depth, int fd, const int64_t *offsets, Py_ssize_t n, uint32_t length,
                      unsigned char *buffers, int64_t *total) noexcept nogil:
    cdef spann_read_done done[AT_ONCE]
    cdef Py_ssize_t begun = 0, ended = 0
    cdef int status = 0, taken, j
    while begun < n and begun < depth and status == 0:
        status = start(io, fd, offsets[begun], length, buffers, <uint64_t> begun)
        begun += 1
    while ended < n and status == 0:
        taken = spann_io_wait(io, done, AT_ONCE, 1)
        if taken < 0:
            return -taken
        ended += taken
        for j in range(taken):
            if done[j].result < 0:
                return <int> -done[j].result
            total[0] += done[j].result
            if begun < n and status == 0:
                status = start(io, fd, offsets[begun], length, buffers, done[j].tag)
                begun += 1
    return -status


cdef int start(spann_io *io, int fd, int64_t offset, uint32_t length, unsigned char *buffers,
               uint64_t number) noexcept nogil:
    cdef spann_read read
    read.file.fd = fd
    read.bytes = length
    read.offset = <uint64_t> offset
    read.buffer = buffers + number * length
    read.tag = number
    return spann_io_start(io, &read)


def time_reads(int backend, unsigned int depth, int fd, const int64_t[::1] offsets, uint32_t length,
               unsigned char[::1] buffers):
    """Reads with `depth` buffers. Returns (error, backend, bytes read, seconds of reading, seconds of opening and
    closing)."""
    cdef timespec t0, t1, t2, t3
    cdef int error = 0, chosen = -1
    cdef int64_t total = 0
    cdef spann_io *io
    with nogil:
        clock_gettime(CLOCK_MONOTONIC, &t0)
        io = spann_io_open(backend, depth, &error)
        clock_gettime(CLOCK_MONOTONIC, &t1)
        t2 = t1
        if io != NULL:
            chosen = spann_io_backend(io)
            error = read_through(io, depth, fd, &offsets[0], offsets.shape[0], length, &buffers[0], &total)
            clock_gettime(CLOCK_MONOTONIC, &t2)
            spann_io_close(io)
        clock_gettime(CLOCK_MONOTONIC, &t3)
    return error, chosen, total, between(t1, t2), between(t0, t1) + between(t2, t3)


cdef double between(timespec start, timespec end) noexcept nogil:
    return <double> (end.tv_sec - start.tv_sec) + 1e-9 * <double> (end.tv_nsec - start.tv_nsec)
