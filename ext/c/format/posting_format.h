/* The bytes of postings and of their shapes (docs/FORMAT.md, Postings and Shapes). Nothing else in C knows them.
 * spann/_kernels/postings.py has the same numbers, and compares them with these when it is imported. */
#ifndef SPANN_POSTING_FORMAT_H
#define SPANN_POSTING_FORMAT_H

#include <stddef.h>
#include <stdint.h>

#define SPANN_PAGE 4096 /* bytes of a page: postings and vectors are placed, counted and checked by pages */
#define SPANN_SLACK 64  /* readable bytes that must follow codes in memory, because kernels read ahead */
#define SPANN_MAX_DIRECTIONS 32

/* A posting of codes begins with five floats, and so does a shape. Entry i has A = a_low + a_step * add[i] and
 * S = s_low + s_step * scale[i]. `error` is E, or -E where the origin is the posting's centroid (kernels/codes.h). */
typedef struct {
    float a_low, a_step, s_low, s_step, error;
} spann_code_header;

#define SPANN_HEADER_BYTES 20
#define SPANN_FACTOR_BYTES 2 /* bytes of `add`, and of `scale`, of an entry */
_Static_assert(sizeof(spann_code_header) == SPANN_HEADER_BYTES, "a header is stored as it is in memory");

/* Bytes of an entry's id, of a replica's row number, and of a code. */
typedef struct {
    size_t id, row, code;
} spann_widths;

/* Where the parts of a posting of codes begin, counted from its first byte. `end` is its size. */
typedef struct {
    size_t ids, add, scale, rows, codes, end;
} spann_posting_parts;

/* The parts of a posting of `entries`, the first `primaries` of them primary. An empty posting takes no bytes, not even
 * a header. */
static inline spann_posting_parts spann_parts_of_posting(const spann_widths *w, size_t entries, size_t primaries) {
    spann_posting_parts p = {.ids = SPANN_HEADER_BYTES};
    if (entries == 0) return (spann_posting_parts){0};
    p.add = p.ids + entries * w->id;
    p.scale = p.add + entries * SPANN_FACTOR_BYTES;
    p.rows = p.scale + entries * SPANN_FACTOR_BYTES;
    p.codes = p.rows + (entries - primaries) * w->row;
    p.end = p.codes + entries * w->code;
    return p;
}

/* A posting of vectors has no header: all ids come first, then all vectors. */
static inline size_t spann_vectors_begin(size_t id_bytes, size_t entries) { return entries * id_bytes; }
static inline size_t spann_exact_posting_bytes(size_t id_bytes, size_t vector_bytes, size_t entries) {
    return entries * (id_bytes + vector_bytes);
}

/* A shape: these numbers, then an offset (float) and an entry of codes for each direction. */
typedef struct {
    spann_code_header header;
    float spread, rest;
} spann_shape;
_Static_assert(sizeof(spann_shape) == SPANN_HEADER_BYTES + 8, "a shape is stored as it is in memory");

/* Where the parts of a shape begin. `end` is its size. */
typedef struct {
    size_t offsets, add, scale, codes, end;
} spann_shape_parts;

static inline spann_shape_parts spann_parts_of_shape(size_t code_bytes, size_t directions) {
    spann_shape_parts p = {.offsets = sizeof(spann_shape)};
    p.add = p.offsets + directions * sizeof(float);
    p.scale = p.add + directions * SPANN_FACTOR_BYTES;
    p.codes = p.scale + directions * SPANN_FACTOR_BYTES;
    p.end = p.codes + directions * code_bytes;
    return p;
}

/* Writes `postings` lists of ids and vectors into `out`, which has room for them. ids (entry, id_bytes) and vectors
 * (entry, vector_bytes) hold the entries of all lists, one after the other. List p has lengths[p] entries and starts at
 * out + starts[p]. crcs[p] becomes the crc32c of its bytes. */
void spann_pack_postings(const unsigned char *ids, size_t id_bytes, const unsigned char *vectors, size_t vector_bytes,
                         const uint16_t *lengths, const uint64_t *starts, size_t postings, unsigned char *out,
                         uint32_t *crcs);

/* The parts of all lists of codes, each part one array. */
typedef struct {
    const unsigned char *headers;     /* (posting, SPANN_HEADER_BYTES) */
    const unsigned char *ids;         /* (entry, widths.id) */
    const unsigned char *add, *scale; /* (entry, SPANN_FACTOR_BYTES) each */
    const unsigned char *rows;        /* (replica, widths.row): rows of the exact store */
    const unsigned char *codes;       /* (entry, widths.code) */
    spann_widths widths;
} spann_coded;

/* Writes lists of codes in the same way. List p has lengths[p] entries; all after its first primaries[p] are
 * replicas. */
void spann_pack_coded(const spann_coded *from, const uint16_t *lengths, const uint16_t *primaries,
                      const uint64_t *starts, size_t postings, unsigned char *out, uint32_t *crcs);

#endif
