/* The interface between io.c and a way of reading. Private to both. */
#ifndef SPANN_IO_BACKEND_H
#define SPANN_IO_BACKEND_H

#include "io/io.h"

typedef struct {
    void *(*open)(unsigned depth, int *system_error); /* NULL: *system_error is an errno */
    void (*add)(void *state, const spann_read *read); /* only called with fewer than depth added and unreported */
    int (*submit)(void *state);                       /* 0 or -errno */
    /* As spann_io_wait, with least <= max and least <= reads added and unreported. */
    int (*wait)(void *state, spann_read_done *done, unsigned max, unsigned least);
    void (*close)(void *state); /* waits for reads that the kernel or a thread has begun */
} spann_io_backend_ops;

extern const spann_io_backend_ops spann_io_uring_ops, spann_io_pool_ops;

/* Reads the rest of a read that has `got` bytes, in the calling thread. Returns a result for spann_read_done. */
int64_t spann_io_pread(const spann_read *read, uint32_t got);

#endif
