/* Reading through io_uring, on raw system calls. There are three of them, and two rings in shared memory. That is
 * less than a dependency on liburing. */
#include "io/io_backend.h"

#include <errno.h>
#include <sys/syscall.h>

#if defined(__has_include)
#if __has_include(<linux/io_uring.h>) && defined(SYS_io_uring_setup) && defined(SYS_io_uring_enter)
#define HAVE_IO_URING
#endif
#endif

#ifdef HAVE_IO_URING

#include <linux/io_uring.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/* Newer than some headers. A kernel that does not know them says EINVAL. */
#define COOP_TASKRUN (1u << 8)   /* 5.19: completions wait for our next system call, no interrupt for them */
#define SINGLE_ISSUER (1u << 12) /* 6.0: one thread submits; the kernel refuses others */
#define DEFER_TASKRUN (1u << 13) /* 6.1: completions are finished only inside our io_uring_enter, many at a time */

/* How often a kernel that has no memory for a request is asked again, a millisecond apart. */
#define PATIENCE 100

typedef struct {
    int fd;
    unsigned unsubmitted; /* written to the submission ring, not taken by the kernel */
    unsigned in_kernel;   /* taken, and their completion not yet reaped */
    unsigned sq_next, sq_mask, cq_mask;
    unsigned *sq_tail, *cq_head, *cq_tail;
    struct io_uring_sqe *sqes;
    struct io_uring_cqe *cqes;
    void *sq_map, *cq_map; /* the same where the kernel has both rings in one mapping (since 5.4) */
    size_t sq_bytes, cq_bytes, sqes_bytes;
    spann_read *slots;    /* (depth) reads under way; user_data is their number */
    unsigned *free_slots; /* (depth) stack */
    unsigned free_count;
} ring;

/* A kernel says EINVAL to flags that it does not know, so ask for less, step by step. */
static int setup(unsigned entries, struct io_uring_params *p) {
    static const unsigned attempts[] = {COOP_TASKRUN | SINGLE_ISSUER | DEFER_TASKRUN, COOP_TASKRUN, 0};
    for (size_t i = 0; i < sizeof attempts / sizeof *attempts; i++) {
        *p = (struct io_uring_params){.flags = attempts[i]};
        int fd = (int)syscall(SYS_io_uring_setup, entries, p);
        if (fd >= 0 || errno != EINVAL) return fd;
    }
    return -1;
}

static void *map(const ring *r, size_t bytes, off_t what) {
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, r->fd, what);
    return p == MAP_FAILED ? NULL : p;
}

/* 0 or an errno. ring_close unmaps what was mapped until then. */
static int map_rings(ring *r, const struct io_uring_params *p) {
    int one = (p->features & IORING_FEAT_SINGLE_MMAP) != 0;
    r->sq_bytes = p->sq_off.array + p->sq_entries * sizeof(uint32_t);
    r->cq_bytes = p->cq_off.cqes + p->cq_entries * sizeof(struct io_uring_cqe);
    r->sqes_bytes = p->sq_entries * sizeof(struct io_uring_sqe);
    if (one && r->cq_bytes > r->sq_bytes) r->sq_bytes = r->cq_bytes;
    r->sq_map = map(r, r->sq_bytes, IORING_OFF_SQ_RING);
    if (r->sq_map == NULL) return errno;
    r->cq_map = one ? r->sq_map : map(r, r->cq_bytes, IORING_OFF_CQ_RING);
    if (r->cq_map == NULL) return errno;
    r->sqes = map(r, r->sqes_bytes, (off_t)IORING_OFF_SQES);
    if (r->sqes == NULL) return errno;

    char *sq = r->sq_map, *cq = r->cq_map;
    r->sq_tail = (unsigned *)(sq + p->sq_off.tail);
    r->sq_next = *r->sq_tail;
    r->sq_mask = *(unsigned *)(sq + p->sq_off.ring_mask);
    unsigned *order = (unsigned *)(sq + p->sq_off.array);
    for (unsigned i = 0; i < p->sq_entries; i++) order[i] = i;
    r->cq_head = (unsigned *)(cq + p->cq_off.head);
    r->cq_tail = (unsigned *)(cq + p->cq_off.tail);
    r->cq_mask = *(unsigned *)(cq + p->cq_off.ring_mask);
    r->cqes = (struct io_uring_cqe *)(cq + p->cq_off.cqes);
    return 0;
}

static void release(ring *r) {
    if (r->sqes) munmap(r->sqes, r->sqes_bytes);
    if (r->cq_map && r->cq_map != r->sq_map) munmap(r->cq_map, r->cq_bytes);
    if (r->sq_map) munmap(r->sq_map, r->sq_bytes);
    if (r->fd >= 0) close(r->fd);
    free(r->slots);
    free(r->free_slots);
    free(r);
}

static void *ring_open(unsigned depth, int *system_error) {
    ring *r = calloc(1, sizeof *r);
    if (r == NULL) {
        *system_error = ENOMEM;
        return NULL;
    }
    r->fd = -1;
    r->slots = malloc(depth * sizeof *r->slots);
    r->free_slots = malloc(depth * sizeof *r->free_slots);
    *system_error = r->slots && r->free_slots ? 0 : ENOMEM;
    if (*system_error == 0) {
        /* The kernel rounds the entries up to a power of two and makes the completion ring twice as long. No more than
         * depth reads are ever in both together, so neither can run over. */
        struct io_uring_params p;
        r->fd = setup(depth, &p);
        if (r->fd < 0) *system_error = errno;
        /* IORING_OP_READ came with 5.6, as this feature did. Before, every read would fail. */
        else if (!(p.features & IORING_FEAT_RW_CUR_POS)) *system_error = ENOSYS;
        else *system_error = map_rings(r, &p);
    }
    if (*system_error) {
        release(r);
        return NULL;
    }
    for (unsigned i = 0; i < depth; i++) r->free_slots[i] = depth - 1 - i;
    r->free_count = depth;
    return r;
}

static void ring_add(void *state, const spann_read *read) {
    ring *r = state;
    unsigned slot = r->free_slots[--r->free_count];
    r->slots[slot] = *read;
    r->sqes[r->sq_next & r->sq_mask] = (struct io_uring_sqe){
        .opcode = IORING_OP_READ,
        .fd = read->file.fd,
        .off = read->offset,
        .addr = (uintptr_t)read->buffer,
        .len = read->bytes,
        .user_data = slot,
    };
    /* Without SQPOLL a plain store would do, but release costs no more. */
    __atomic_store_n(r->sq_tail, ++r->sq_next, __ATOMIC_RELEASE);
    r->unsubmitted++;
}

static unsigned ready(const ring *r) { return __atomic_load_n(r->cq_tail, __ATOMIC_ACQUIRE) - *r->cq_head; }

static unsigned reap(ring *r, spann_read_done *done, unsigned max) {
    unsigned n = ready(r), head = *r->cq_head;
    if (n > max) n = max;
    for (unsigned i = 0; i < n; i++) {
        const struct io_uring_cqe *cqe = &r->cqes[(head + i) & r->cq_mask];
        unsigned slot = (unsigned)cqe->user_data;
        const spann_read *read = &r->slots[slot];
        int64_t result = cqe->res;
        /* A short read is the end of the file. On some file systems and old kernels it also stops where the page
         * cache ends. EAGAIN comes from a descriptor that was opened O_NONBLOCK. Both are rare, so the rest is read
         * here. Submitting it again would need more state for every slot, and EAGAIN would come back at once. */
        if (result >= 0 && result < read->bytes) result = spann_io_pread(read, (uint32_t)result);
        else if (result == -EAGAIN || result == -EINTR) result = spann_io_pread(read, 0);
        done[i] = (spann_read_done){read->tag, result};
        r->free_slots[r->free_count++] = slot;
    }
    r->in_kernel -= n;
    __atomic_store_n(r->cq_head, head + n, __ATOMIC_RELEASE);
    return n;
}

static int enter_once(ring *r, unsigned submit, unsigned least) {
    for (;;) {
        long n = syscall(SYS_io_uring_enter, r->fd, submit, least, IORING_ENTER_GETEVENTS, NULL, 0);
        if (n >= 0) {
            r->unsubmitted -= (unsigned)n;
            r->in_kernel += (unsigned)n;
            return 0;
        }
        if (errno != EINTR) return -errno;
    }
}

/* Submits all, and returns with at least `least` completions in the ring. 0 or -errno. */
static int enter(ring *r, unsigned least) {
    int patience = PATIENCE;
    do {
        int error = enter_once(r, r->unsubmitted, least);
        if (error == 0) continue;
        if (error != -EAGAIN && error != -EBUSY) return error;
        /* No memory for a request. A read that finishes gives some back. With no read under way, wait for time to
         * pass. */
        unsigned finished = ready(r);
        if (finished < r->in_kernel) {
            error = enter_once(r, 0, finished + 1);
            if (error) return error;
        } else {
            if (patience-- == 0) return error;
            nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        }
    } while (r->unsubmitted || ready(r) < least);
    return 0;
}

static int ring_submit(void *state) {
    ring *r = state;
    return r->unsubmitted ? enter(r, 0) : 0;
}

static int ring_wait(void *state, spann_read_done *done, unsigned max, unsigned least) {
    ring *r = state;
    unsigned stored = 0;
    for (int entered = 0;; entered = 1) {
        stored += reap(r, done + stored, max - stored);
        int enough = stored >= least;
        /* Entered even only to look: with DEFER_TASKRUN completions appear nowhere else. */
        if (enough && (entered || (stored && r->unsubmitted == 0))) return (int)stored;
        int error = enter(r, enough ? 0 : least - stored);
        if (error) return stored ? (int)stored : error;
    }
}

static void ring_close(void *state) {
    ring *r = state;
    /* Reads never submitted are not in the kernel and need no wait. An error here cannot be mended by waiting. */
    while (ready(r) < r->in_kernel && enter_once(r, 0, r->in_kernel) == 0) {}
    release(r);
}

const spann_io_backend_ops spann_io_uring_ops = {ring_open, ring_add, ring_submit, ring_wait, ring_close};

#else

static void *ring_open(unsigned depth, int *system_error) {
    (void)depth;
    *system_error = ENOSYS;
    return 0;
}

const spann_io_backend_ops spann_io_uring_ops = {.open = ring_open}; /* nothing else is called on what did not open */

#endif
