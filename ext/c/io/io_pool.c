/* Reading where there is no io_uring: threads that block in pread. */
#include "io/io_backend.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

/* More reads at once gain little on a disk, and cost the scheduler much. */
#define MOST_THREADS 32
/* pread needs little stack. Small stacks stay in glibc's cache, so the next pool needs no mmap. */
#define STACK_BYTES (256 << 10)

typedef struct {
    unsigned depth, most_threads;
    unsigned threads; /* this and ids are the owner's alone */
    pthread_t ids[MOST_THREADS];
    pthread_mutex_t lock; /* guards all below */
    pthread_cond_t work, finished;
    spann_read *queue;     /* (depth) circular: added, taken by no thread yet */
    spann_read_done *done; /* (depth) circular: finished, not reported */
    unsigned queue_first, queue_count, done_first, done_count;
    unsigned wanted; /* the owner sleeps until this many are done; 0: it does not sleep */
    unsigned idle;
    int closing;
} pool;

static void *work(void *state) {
    pool *p = state;
    pthread_mutex_lock(&p->lock);
    for (;;) {
        while (p->queue_count == 0 && !p->closing) {
            p->idle++;
            pthread_cond_wait(&p->work, &p->lock);
            p->idle--;
        }
        if (p->closing) break;
        spann_read read = p->queue[p->queue_first];
        p->queue_first = (p->queue_first + 1) % p->depth;
        p->queue_count--;
        pthread_mutex_unlock(&p->lock);
        int64_t result = spann_io_pread(&read, 0);
        pthread_mutex_lock(&p->lock);
        p->done[(p->done_first + p->done_count++) % p->depth] = (spann_read_done){read.tag, result};
        if (p->wanted && p->done_count >= p->wanted) {
            p->wanted = 0;
            pthread_cond_signal(&p->finished);
        }
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

/* 0 or an errno. The threads block all signals: a thread that took one would run Python's handler, or interrupt a
 * read. */
static int start_thread(pool *p) {
    pthread_attr_t attributes;
    sigset_t all, before;
    int error = pthread_attr_init(&attributes);
    if (error) return error;
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    error = pthread_create(&p->ids[p->threads], &attributes, work, p);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    if (error == 0) p->threads++;
    return error;
}

static void release(pool *p) {
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->work);
    pthread_cond_destroy(&p->finished);
    free(p->queue);
    free(p->done);
    free(p);
}

static void *pool_open(unsigned depth, int *system_error) {
    pool *p = calloc(1, sizeof *p);
    if (p == NULL) {
        *system_error = ENOMEM;
        return NULL;
    }
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->work, NULL);
    pthread_cond_init(&p->finished, NULL);
    p->depth = depth;
    p->most_threads = depth < MOST_THREADS ? depth : MOST_THREADS;
    p->queue = malloc(depth * sizeof *p->queue);
    p->done = malloc(depth * sizeof *p->done);
    /* One thread now. If a later one cannot start, reads still get done, only later. */
    *system_error = p->queue && p->done ? start_thread(p) : ENOMEM;
    if (*system_error == 0) return p;
    release(p);
    return NULL;
}

static void pool_add(void *state, const spann_read *read) {
    pool *p = state;
    pthread_mutex_lock(&p->lock);
    p->queue[(p->queue_first + p->queue_count++) % p->depth] = *read;
    /* A signalled thread that does not run yet counts as idle, and its work counts as queued. */
    int idle = p->idle > 0, too_few = p->queue_count > p->idle && p->threads < p->most_threads;
    pthread_mutex_unlock(&p->lock);
    if (idle) pthread_cond_signal(&p->work);
    if (too_few) start_thread(p);
}

static int pool_submit(void *state) {
    (void)state;
    return 0;
}

static int pool_wait(void *state, spann_read_done *done, unsigned max, unsigned least) {
    pool *p = state;
    pthread_mutex_lock(&p->lock);
    p->wanted = p->done_count < least ? least : 0;
    while (p->done_count < least) pthread_cond_wait(&p->finished, &p->lock);
    p->wanted = 0;
    unsigned n = p->done_count < max ? p->done_count : max;
    for (unsigned i = 0; i < n; i++) done[i] = p->done[(p->done_first + i) % p->depth];
    p->done_first = (p->done_first + n) % p->depth;
    p->done_count -= n;
    pthread_mutex_unlock(&p->lock);
    return (int)n;
}

static void pool_close(void *state) {
    pool *p = state;
    pthread_mutex_lock(&p->lock);
    p->closing = 1;
    pthread_mutex_unlock(&p->lock);
    pthread_cond_broadcast(&p->work);
    for (unsigned i = 0; i < p->threads; i++) pthread_join(p->ids[i], NULL);
    release(p);
}

const spann_io_backend_ops spann_io_pool_ops = {pool_open, pool_add, pool_submit, pool_wait, pool_close};
