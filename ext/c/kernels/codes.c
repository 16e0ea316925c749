/* One body, compiled once per SIMD level: the pragma sets the level for all that follows it. AVX-512 has two: byte dot
 * products in one instruction (VNNI, Ice Lake and later) or in three. (VPOPCNTDQ rejected for 1-bit codes: against an
 * 8-bit query, 512 dimensions are 8 planes of and, popcount, shift and add; with VNNI, 8 of shift, and, dot.) */
#include "kernels/codes.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "base/simd.h"

#define CHUNK 32u
#define SMALL_QUERY 127
#define LARGE_QUERY 8191

/* Scratch of one spann_encode call: vectors of `padded` floats, and arrays as long as the longest posting. */
struct spann_encoder {
    spann_code_params params;
    size_t padded, bytes;
    float *residual, *rotated, *centroid, *levels;
    unsigned char *values;
    float *factor, *cross, *norm;
    float *vectors, *entries; /* what is allocated */
};

/* The planes of a row: bits of each, how far its part of a value is shifted, and its place in the row. */
typedef struct {
    unsigned bits, shift;
    size_t at, bytes;
} plane;

static int planes_of(size_t padded, unsigned bits, plane out[2]) {
    if (bits == 3) {
        out[0] = (plane){2, 0, 0, padded / 4};
        out[1] = (plane){1, 2, padded / 4, padded / 8};
        return 2;
    }
    out[0] = (plane){bits, 0, 0, padded * bits / 8};
    return 1;
}

size_t spann_code_bytes(size_t padded, unsigned bits) { return padded / 8 * bits; }

static size_t plane_query_bytes(const plane *p) {
    return (p->bytes + CHUNK - 1) / CHUNK * (8 / p->bits) * CHUNK * (p->bits == 8 ? 2 : 1);
}

size_t spann_code_query_bytes(size_t padded, unsigned bits) {
    plane p[2];
    size_t total = 0;
    for (int i = planes_of(padded, bits, p) - 1; i >= 0; i--) total += plane_query_bytes(p + i);
    return total;
}

static inline unsigned load_u16(const unsigned char *p) { return (unsigned)p[0] | (unsigned)p[1] << 8; }

static inline void store_u16(unsigned char *p, unsigned value) {
    p[0] = (unsigned char)value;
    p[1] = (unsigned char)(value >> 8);
}

/* The largest integer of a query, which keeps all sums within 32 bits. */
static int largest_of(size_t padded, unsigned bits) {
    if (bits != 8) return SMALL_QUERY;
    return padded * 255 * LARGE_QUERY <= INT32_MAX ? LARGE_QUERY : (int)(INT32_MAX / (255 * padded));
}

static float noise_of(float step, size_t padded, unsigned bits) {
    /* Root mean square of u, per dimension, where it lies best along a Gaussian vector. */
    static const float spread[9] = {[1] = 0.5f, [2] = 0.94f, [3] = 1.69f, [4] = 3.05f, [8] = 41.0f};
    return step * spread[bits] * sqrtf((float)padded / 12.0f);
}

#define LEVEL(name) name##_scalar
#include "kernels/codes.inc"
#undef LEVEL

#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target("avx2")
#define LEVEL(name) name##_avx2
#include "kernels/codes.inc"
#undef LEVEL
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,prefer-vector-width=512")
#define LEVEL(name) name##_avx512
#include "kernels/codes.inc"
#undef LEVEL
#pragma GCC target("avx512vnni")
#define LEVEL(name) name##_avx512vnni
#include "kernels/codes.inc"
#undef LEVEL
#pragma GCC pop_options
#endif

const spann_code_kernels *spann_code_kernels_get(void) {
    switch (spann_simd_level()) {
    case SPANN_SCALAR:
        return &code_table_scalar;
#if defined(__x86_64__)
    case SPANN_AVX2:
        return &code_table_avx2;
    case SPANN_AVX512:
        return __builtin_cpu_supports("avx512vnni") ? &code_table_avx512vnni : &code_table_avx512;
#endif
    default:
        return NULL;
    }
}

static int encoder_init(spann_encoder *e, const spann_code_params *params, size_t longest) {
    size_t padded = spann_padded_dim(params->dim);
    *e = (spann_encoder){.params = *params, .padded = padded, .bytes = spann_code_bytes(padded, params->bits)};
    e->vectors = malloc(padded * (4 * sizeof(float) + 1));
    e->entries = malloc((longest + 1) * 3 * sizeof(float));
    if (e->vectors == NULL || e->entries == NULL) return -1;
    e->residual = e->vectors;
    e->rotated = e->vectors + padded;
    e->centroid = e->vectors + 2 * padded;
    e->levels = e->vectors + 3 * padded;
    e->values = (unsigned char *)(e->vectors + 4 * padded);
    e->factor = e->entries;
    e->cross = e->entries + longest;
    e->norm = e->entries + 2 * longest;
    return 0;
}

int spann_encode(const spann_code_kernels *kernels, const spann_code_params *params, const float *x,
                 const float *centroids, const int64_t *lengths, size_t postings, unsigned char *codes,
                 unsigned char *add, unsigned char *scale, spann_code_header *headers) {
    size_t longest = 0, dim = params->dim;
    for (size_t p = 0; p < postings; p++)
        if ((size_t)lengths[p] > longest) longest = (size_t)lengths[p];
    spann_encoder e;
    int status = encoder_init(&e, params, longest);
    for (size_t p = 0; p < postings && status == 0; p++) {
        size_t n = (size_t)lengths[p];
        int far = params->far ? params->far[p] : -1;
        kernels->encode(&e, x, centroids + p * dim, far, n, codes, add, scale, headers + p);
        x += n * dim;
        codes += n * e.bytes;
        add += 2 * n;
        scale += 2 * n;
    }
    free(e.vectors);
    free(e.entries);
    return status;
}
