/* Reads with many under way at once: io_uring, a pool of threads, or one after another.
 *
 * Opening and closing costs about 70 us with io_uring, and up to 400 us with a pool of 32 threads. A page from a
 * good disk costs 100 us. So open one for a batch of queries, not for each.
 *
 * Contract: only the thread that opened a spann_io may use or close it. For io_uring the kernel enforces that
 * (io_uring.c). A buffer stays valid, and is used for nothing else, from start until its read is reported or the
 * spann_io is closed. Reads are reported in any order. Each succeeds or fails by itself, with its own errno in its
 * result. An errno that a function returns loses nothing: what was started stays started, and waiting again is
 * allowed. */
#ifndef SPANN_IO_H
#define SPANN_IO_H

#include <stdint.h>

typedef struct spann_io spann_io;

/* What is read from. Only the backends look inside, so that other stores than local files can follow. */
typedef struct {
    int fd;
} spann_file;

typedef struct {
    spann_file file;
    uint32_t bytes;
    uint64_t offset;
    void *buffer;
    uint64_t tag; /* comes back in spann_read_done; need not be unique */
} spann_read;

typedef struct {
    uint64_t tag;
    int64_t result; /* bytes read, fewer than asked for only where the file ends; or -errno */
} spann_read_done;

enum { SPANN_IO_AUTO = 0, SPANN_IO_URING = 1, SPANN_IO_POOL = 2, SPANN_IO_SYNC = 3 };

#define SPANN_IO_MAX_DEPTH 4096

/* depth: reads under way at most, at least 1; more than SPANN_IO_MAX_DEPTH counts as that. SPANN_IO_AUTO takes
 * io_uring where the kernel allows it, and the pool elsewhere. The environment variable SPANN_IO (auto, uring, pool
 * or sync) is read at each call and overrides it. It is strict: a backend that does not work is an error. NULL:
 * *system_error is an errno, EINVAL for a depth of 0 and for an unknown backend or SPANN_IO. */
spann_io *spann_io_open(int backend, unsigned depth, int *system_error);

int spann_io_backend(const spann_io *io); /* what it reads with; never SPANN_IO_AUTO */

/* Hands in one read; *read is copied. It may be held back until the next submit or wait. Where `depth` reads are
 * under way, it is held back until one of them is reported. 0, -EINVAL for an offset above INT64_MAX, or -ENOMEM. On
 * failure the read is not started. */
int spann_io_start(spann_io *io, const spann_read *read);

/* When this returns 0, everything started is under way, as far as `depth` allows. Otherwise -errno. */
int spann_io_submit(spann_io *io);

/* Submits, then stores what has finished: at most `max`, and at least `least`, blocking until then. `least` is
 * lowered to what is outstanding and to max; 0 only looks. Returns the number stored, or -errno with none stored. */
int spann_io_wait(spann_io *io, spann_read_done *done, unsigned max, unsigned least);

unsigned spann_io_outstanding(const spann_io *io); /* started and not yet reported */

/* Waits for reads under way and drops the others. Then no buffer is written any more. NULL is fine. */
void spann_io_close(spann_io *io);

#endif
