#include "search/pinned.h"

#include <string.h>

#include "base/crc32c.h"
#include "base/memory.h"
#include "kernels/codes.h"

int64_t spann_unpack(const spann_index *index, const uint32_t *postings, const uint64_t *starts, size_t n,
                     const unsigned char *block, unsigned char *ids, unsigned char *add, unsigned char *scale,
                     unsigned char *rows, unsigned char *codes, unsigned char *headers) {
    spann_widths w = {index->id_bytes, index->row_bytes, spann_code_bytes(index->padded_dim, index->code_bits)};
    for (size_t i = 0; i < n; i++) {
        uint32_t posting = postings[i];
        const unsigned char *content = block + starts[i];
        size_t entries = index->posting_length[posting], primaries = index->posting_primaries[posting];
        size_t entry = index->first_entry[posting];
        spann_posting_parts p = spann_parts_of_posting(&w, entries, primaries);
        if (spann_crc32c(0, content, p.end) != index->posting_crc[posting]) return posting;
        memcpy(headers + (size_t)posting * SPANN_HEADER_BYTES, content, SPANN_HEADER_BYTES);
        memcpy(ids + entry * w.id, content + p.ids, entries * w.id);
        memcpy(add + entry * SPANN_FACTOR_BYTES, content + p.add, entries * SPANN_FACTOR_BYTES);
        memcpy(scale + entry * SPANN_FACTOR_BYTES, content + p.scale, entries * SPANN_FACTOR_BYTES);
        if (primaries < entries)
            memcpy(rows + (entry - index->first_row[posting]) * w.row, content + p.rows, (entries - primaries) * w.row);
        memcpy(codes + entry * w.code, content + p.codes, entries * w.code);
    }
    return -1;
}

/* Unsigned little-endian number `value` of `width` bytes, 4 or 8, at place i. */
static void write_row(unsigned char *rows, size_t width, uint64_t i, uint64_t value) {
    uint32_t narrow = (uint32_t)value;
    if (width == 4) memcpy(rows + i * 4, &narrow, 4);
    else memcpy(rows + i * 8, &value, 8);
}

/* A factor of an entry as a float, as kernels work it out. */
static float factor(const unsigned char *factors, size_t i, float low, float step) {
    uint16_t value;
    memcpy(&value, factors + i * SPANN_FACTOR_BYTES, sizeof value);
    return low + step * (float)value;
}

int64_t spann_unpack_tail(const spann_index *index, const spann_part *parts, size_t n, const unsigned char *block,
                          unsigned char *ids, unsigned char *rows, float *add, float *scale, unsigned char *codes) {
    spann_widths w = {index->id_bytes, index->row_bytes, spann_code_bytes(index->padded_dim, index->code_bits)};
    for (size_t i = 0; i < n; i++) {
        const spann_part *part = &parts[i];
        const unsigned char *content = block + part->start;
        spann_posting_parts p = spann_parts_of_posting(&w, part->length, part->primaries);
        if (spann_crc32c(0, content, p.end) != part->crc) return (int64_t)i;
        spann_code_header h;
        memcpy(&h, content, sizeof h);
        for (size_t e = 0; e < part->length; e++) {
            size_t replica = e - part->primaries;
            uint64_t to = e < part->primaries ? part->primary_at + e : part->replica_at + replica;
            uint64_t row = e < part->primaries ? part->first_row + e
                                               : spann_read_id(content + p.rows, index->row_bytes, replica);
            if (row >= index->count) return (int64_t)i;
            memcpy(ids + to * w.id, content + p.ids + e * w.id, w.id);
            write_row(rows, w.row, to, row);
            add[to] = factor(content + p.add, e, h.a_low, h.a_step);
            scale[to] = factor(content + p.scale, e, h.s_low, h.s_step);
            memcpy(codes + to * w.code, content + p.codes + e * w.code, w.code);
        }
    }
    return -1;
}

int64_t spann_unpack_vectors(const spann_index *index, const spann_part *parts, size_t n, const unsigned char *block,
                             unsigned char *ids, unsigned char *vectors) {
    size_t width = spann_row_bytes(index);
    for (size_t i = 0; i < n; i++) {
        const spann_part *part = &parts[i];
        const unsigned char *content = block + part->start;
        size_t begin = spann_vectors_begin(index->id_bytes, part->length);
        size_t bytes = spann_exact_posting_bytes(index->id_bytes, width, part->length);
        if (spann_crc32c(0, content, bytes) != part->crc) return (int64_t)i;
        memcpy(ids + part->primary_at * index->id_bytes, content, begin);
        memcpy(vectors + part->primary_at * width, content + begin, part->length * width);
    }
    return -1;
}
