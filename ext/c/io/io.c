#include "io/io.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/io_backend.h"

struct spann_io {
    const spann_io_backend_ops *ops;
    void *state;
    int backend;
    unsigned depth, under_way; /* under way: added to the backend and not yet reported */
    /* Circular: reads beyond depth. They are held, not refused, so that a caller may start all reads of a query at
     * once. */
    spann_read *held;
    unsigned held_first, held_count, held_capacity;
};

int64_t spann_io_pread(const spann_read *read, uint32_t got) {
    while (got < read->bytes) {
        ssize_t n = pread(read->file.fd, (char *)read->buffer + got, read->bytes - got, (off_t)(read->offset + got));
        if (n < 0 && errno == EINTR) continue;
        /* Some file systems check the alignment of an O_DIRECT read before they check for the end of the file. Only
         * an end leaves an unaligned rest, so this is the end. */
        if (n < 0 && errno == EINVAL && got) break;
        if (n < 0) return -errno;
        if (n == 0) break;
        got += (uint32_t)n;
    }
    return got;
}

/* ---- one after another ---- */

typedef struct {
    unsigned first, count, depth;
    spann_read_done done[]; /* circular */
} sync_state;

static void *sync_open(unsigned depth, int *system_error) {
    sync_state *s = calloc(1, sizeof *s + depth * sizeof *s->done);
    if (s == NULL) {
        *system_error = ENOMEM;
        return NULL;
    }
    s->depth = depth;
    return s;
}

static void sync_add(void *state, const spann_read *read) {
    sync_state *s = state;
    s->done[(s->first + s->count++) % s->depth] = (spann_read_done){read->tag, spann_io_pread(read, 0)};
}

static int sync_submit(void *state) {
    (void)state;
    return 0;
}

static int sync_wait(void *state, spann_read_done *done, unsigned max, unsigned least) {
    sync_state *s = state;
    (void)least;
    unsigned n = s->count < max ? s->count : max;
    for (unsigned i = 0; i < n; i++) done[i] = s->done[(s->first + i) % s->depth];
    s->first = (s->first + n) % s->depth;
    s->count -= n;
    return (int)n;
}

static const spann_io_backend_ops sync_ops = {sync_open, sync_add, sync_submit, sync_wait, free};

/* ---- choosing ---- */

static const char *const names[] = {"auto", "uring", "pool", "sync"};
static const spann_io_backend_ops *const all_ops[] = {NULL, &spann_io_uring_ops, &spann_io_pool_ops, &sync_ops};

/* The backend that SPANN_IO asks for, or -1 if there is none of that name. */
static int asked_for(void) {
    const char *asked = getenv("SPANN_IO");
    if (asked == NULL || *asked == '\0') return SPANN_IO_AUTO;
    for (int backend = SPANN_IO_AUTO; backend <= SPANN_IO_SYNC; backend++)
        if (strcmp(asked, names[backend]) == 0) return backend;
    return -1;
}

spann_io *spann_io_open(int backend, unsigned depth, int *system_error) {
    if (backend == SPANN_IO_AUTO) backend = asked_for();
    if (backend < SPANN_IO_AUTO || backend > SPANN_IO_SYNC || depth == 0) {
        *system_error = EINVAL;
        return NULL;
    }
    spann_io *io = calloc(1, sizeof *io);
    if (io == NULL) {
        *system_error = ENOMEM;
        return NULL;
    }
    io->depth = depth < SPANN_IO_MAX_DEPTH ? depth : SPANN_IO_MAX_DEPTH;
    /* Old kernels, filters of containers, a sysctl, and limits on memory and descriptors all mean the same here: use
     * the pool. */
    for (io->backend = backend ? backend : SPANN_IO_URING;; io->backend = SPANN_IO_POOL) {
        io->ops = all_ops[io->backend];
        io->state = io->ops->open(io->depth, system_error);
        if (io->state) return io;
        if (backend != SPANN_IO_AUTO || io->backend == SPANN_IO_POOL) break;
    }
    free(io);
    return NULL;
}

int spann_io_backend(const spann_io *io) { return io->backend; }

unsigned spann_io_outstanding(const spann_io *io) { return io->under_way + io->held_count; }

/* ---- reading ---- */

static int hold(spann_io *io, const spann_read *read) {
    if (io->held_count == io->held_capacity) {
        unsigned capacity = io->held_capacity ? io->held_capacity * 2 : 64;
        spann_read *larger = capacity > io->held_capacity ? malloc(capacity * sizeof *larger) : NULL;
        if (larger == NULL) return -ENOMEM;
        for (unsigned i = 0; i < io->held_count; i++)
            larger[i] = io->held[(io->held_first + i) % io->held_capacity];
        free(io->held);
        io->held = larger;
        io->held_first = 0;
        io->held_capacity = capacity;
    }
    io->held[(io->held_first + io->held_count++) % io->held_capacity] = *read;
    return 0;
}

static void add_held(spann_io *io) {
    for (; io->held_count && io->under_way < io->depth; io->held_count--, io->under_way++) {
        io->ops->add(io->state, &io->held[io->held_first]);
        io->held_first = (io->held_first + 1) % io->held_capacity;
    }
}

int spann_io_start(spann_io *io, const spann_read *read) {
    if (read->offset > INT64_MAX) return -EINVAL; /* to io_uring, the largest means "where the descriptor stands" */
    if (io->held_count || io->under_way == io->depth) return hold(io, read);
    io->ops->add(io->state, read);
    io->under_way++;
    return 0;
}

int spann_io_submit(spann_io *io) {
    add_held(io);
    return io->ops->submit(io->state);
}

int spann_io_wait(spann_io *io, spann_read_done *done, unsigned max, unsigned least) {
    unsigned outstanding = spann_io_outstanding(io), stored = 0;
    if (max > INT32_MAX) max = INT32_MAX;
    if (least > outstanding) least = outstanding;
    if (least > max) least = max;
    do {
        add_held(io);
        unsigned missing = least - stored < io->under_way ? least - stored : io->under_way;
        int n = io->ops->wait(io->state, done + stored, max - stored, missing);
        if (n < 0) return stored ? (int)stored : n; /* the next read would fail in the same way */
        stored += (unsigned)n;
        io->under_way -= (unsigned)n;
    } while (stored < least);
    /* The disk works on these while the caller works on finished reads. The next wait reports a failure. */
    if (io->held_count) spann_io_submit(io);
    return (int)stored;
}

void spann_io_close(spann_io *io) {
    if (io == NULL) return;
    io->ops->close(io->state);
    free(io->held);
    free(io);
}
