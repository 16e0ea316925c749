/* Small helpers on memory that several files share. */
#ifndef SPANN_MEMORY_H
#define SPANN_MEMORY_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

/* For a function with an argument that some callers fix: each such caller gets a loop of its own, without the tests. */
#define SPANN_SPECIALISED static inline __attribute__((always_inline))

/* Room for `needed` elements of `size` bytes; contents are kept. 0, or -1 if memory ran out. */
static inline int spann_reserve(void **array, size_t *capacity, size_t needed, size_t size) {
    if (needed <= *capacity) return 0;
    size_t larger = *capacity * 2 > needed ? *capacity * 2 : needed;
    void *moved = realloc(*array, larger * size);
    if (moved == NULL) return -1;
    *array = moved;
    *capacity = larger;
    return 0;
}

#define SPANN_GROW(array, capacity, needed) spann_reserve((void **)&(array), &(capacity), needed, sizeof *(array))

/* Unsigned little-endian number i of an array of 4- or 8-byte ones, at any address. */
static inline uint64_t spann_read_id(const void *ids, uint32_t id_bytes, size_t i) {
    if (id_bytes == 4) {
        uint32_t id;
        memcpy(&id, (const char *)ids + i * 4, 4);
        return id;
    }
    uint64_t id;
    memcpy(&id, (const char *)ids + i * 8, 8);
    return id;
}

/* Prefetches bytes that will be read soon. Bursts of more than some dozens of cache lines delay computing. */
static inline void spann_prefetch(const void *from, size_t bytes) {
    enum { LINE = 64 };
    const char *first = (const char *)((uintptr_t)from / LINE * LINE), *end = (const char *)from + bytes;
    for (; first < end; first += LINE) __builtin_prefetch(first);
}

/* Returns freed memory to the system. glibc keeps it in a heap of each thread that allocated. Without this, a
 * process that opens indexes again and again, or interrupts large searches, grows by a batch each time.
 * The free end of a thread's heap stays, up to 64 MiB: malloc_trim leaves it alone. */
static inline void spann_give_back(void) {
#if defined(__GLIBC__)
    malloc_trim(0);
#endif
}

static inline uint64_t spann_now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

#endif
