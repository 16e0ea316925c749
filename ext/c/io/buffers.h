/* Page-aligned buffers for reads, kept for the next read of about the same size. Each has one page more than asked for,
 * as room for SPANN_SLACK. Without it a read of 2^i pages would take a buffer of twice its size. */
#ifndef SPANN_BUFFERS_H
#define SPANN_BUFFERS_H

#include <stddef.h>
#include <stdlib.h>

#include "format/posting_format.h"

#define SPANN_BUFFER_CLASSES 24 /* class i: 2^i pages, up to 32 GiB */

typedef struct {
    void *free[SPANN_BUFFER_CLASSES]; /* lists linked through the buffers' first bytes */
} spann_buffers;

static inline unsigned spann_buffer_class(size_t bytes) {
    unsigned class = 0;
    while (class < SPANN_BUFFER_CLASSES && ((size_t)SPANN_PAGE << class) < bytes) class++;
    return class;
}

/* A buffer of at least `bytes` bytes. NULL if memory ran out, or if no buffer is that large. */
static inline void *spann_buffers_get(spann_buffers *b, size_t bytes) {
    unsigned class = spann_buffer_class(bytes);
    if (class == SPANN_BUFFER_CLASSES) return NULL;
    void *buffer = b->free[class];
    if (buffer == NULL) return aligned_alloc(SPANN_PAGE, ((size_t)SPANN_PAGE << class) + SPANN_PAGE);
    b->free[class] = *(void **)buffer;
    return buffer;
}

/* Takes back a buffer that was obtained with the same `bytes`. */
static inline void spann_buffers_put(spann_buffers *b, void *buffer, size_t bytes) {
    unsigned class = spann_buffer_class(bytes);
    *(void **)buffer = b->free[class];
    b->free[class] = buffer;
}

static inline void spann_buffers_free(spann_buffers *b) {
    for (unsigned i = 0; i < SPANN_BUFFER_CLASSES; i++)
        while (b->free[i]) {
            void *buffer = b->free[i];
            b->free[i] = *(void **)buffer;
            free(buffer);
        }
}

#endif
