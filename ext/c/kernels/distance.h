/* Distances of one query to many rows, by metric and element type, at every SIMD level.
 *
 * Contract: pointers need no alignment beyond their element's; sizes are trusted; rows hold finite values; rows and query
 * do not overlap `out`. For integer types dim <= 32768 (an int32 sum of squared differences does not overflow). Values
 * are what ranks candidates, smaller is nearer:
 *   SPANN_L2   sum (q - v)^2, exact for the integer types up to 2^24, rounded once to float above
 *   SPANN_IP   -(q . v)
 *   SPANN_COS  -(q . v) / |v|; the query is used as it is, its length only scales the values; |v| = 0 gives 0
 * Float kernels keep 16 partial sums in lane order and never fuse multiply and add, so their result is the same at
 * every SIMD level. */
#ifndef SPANN_DISTANCE_H
#define SPANN_DISTANCE_H

#include <stddef.h>
#include <stdint.h>

typedef enum { SPANN_L2 = 0, SPANN_IP = 1, SPANN_COS = 2, SPANN_METRICS = 3 } spann_metric;
/* bfloat16 is the upper half of a float32. Bits come packed, and `dim` and all else count their bytes: the squared
 * distance of two such vectors is the number of bits in which they differ. They have no other metric. */
typedef enum {
    SPANN_U8 = 0,
    SPANN_I8 = 1,
    SPANN_F16 = 2,
    SPANN_F32 = 3,
    SPANN_BF16 = 4,
    SPANN_BITS = 5,
    SPANN_DTYPES = 6
} spann_dtype;

/* Query element type: that of the rows, except that rows of float16 and bfloat16 take a float32 query. */
typedef void (*spann_score_fn)(const void *query, const void *rows, size_t n, size_t dim, float *out);
/* The same for rows base[index[0..n)]. */
typedef void (*spann_gather_fn)(const void *query, const void *base, const uint32_t *index, size_t n, size_t dim,
                                float *out);

/* The distance itself, summed in double: what results are ordered by, and tells near copies apart that scores do not.
 *   SPANN_L2   sum (q - v)^2;  SPANN_IP  -(q . v), as scores;  SPANN_COS  1 - cos, by the chord where it is short;
 *              1 where q or v is 0
 * Exact for integers, under l2 and ip. 16 lanes as above, so the same bits at every level. */
typedef double (*spann_measure_fn)(const void *query, const void *row, size_t dim);

typedef struct {
    spann_score_fn score[SPANN_METRICS][SPANN_DTYPES];
    spann_gather_fn gather[SPANN_METRICS][SPANN_DTYPES];
    spann_measure_fn measure[SPANN_METRICS][SPANN_DTYPES]; /* NULL for bits, whose scores are exact */
    /* Dot products of n rows with 16 columns stored column-interleaved: out[i * 16 + c] = sum_j rows[i][j] * tile[j * 16 + c]. */
    void (*dot_tile)(const float *rows, const float *tile, size_t n, size_t dim, float *out);
} spann_kernels;

/* How far a score of floats may be from the measure: |score - it| <= this * sum |q_j v_j|, under l2 sum (q_j - v_j)^2.
 * Sums of 16 lanes have dim / 16 terms each, and a few more roundings go before and after; underflow comes on top. */
static inline double spann_score_error(size_t dim) { return ((double)dim / 16 + 32) * 0x1p-23; }

/* The kernels of the present level (simd.h); NULL if that level is not available. */
const spann_kernels *spann_kernels_get(void);

static inline size_t spann_dtype_size(spann_dtype t) {
    return t == SPANN_F32 ? 4 : t == SPANN_F16 || t == SPANN_BF16 ? 2 : 1;
}

#endif
