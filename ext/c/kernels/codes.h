/* RaBitQ codes: a vector's residual to its centroid in 1, 2, 3, 4 or 8 bits a dimension, and distances estimated from
 * it (Gao and Long, RaBitQ, SIGMOD 2024; Gao et al., Practical and Asymptotically Optimal Quantization, SIGMOD 2025).
 *
 * Vectors have `dim` dimensions, their rotated images `padded`: dim rounded up to a multiple of 32. With origin m and
 * rotation R, a vector o of a posting with centroid c has r = R(o - c), and its code is the v in [0, 2^bits - 1]^padded
 * whose u = v - (2^bits - 1) / 2 points most nearly along r. s = |r|^2 / <u, r> makes s <u, w> an unbiased estimate of
 * <r, w>, so that with base = |q - c|^2, or -<q, c> for the inner product,
 *   est = base + A - S <u, R(q - m)>
 *   l2: S = 2 s, A = |r|^2 + S <u, R(c - m)>, est ~ |q - o|^2;  ip: S = s, A = -<c, r> + S <u, Rc>, est ~ -<q, o>
 * Cosine is l2 of vectors that the caller has normalised. |est - truth| <= mult * E * S * |q - c| at a rate that mult
 * sets (1.9: all but one in 17, 3: all but one in 370), where E is the largest of the posting's
 * |u| sin(u, r) / sqrt(padded - 1). E leaves out the rounding of A and S to 16 bits, a 10000th of E S |q - c| for up
 * to 4 bits (MiniLM), and that of R(q - m) to integers, whose standard deviation is S * noise (of the query): 1 % of
 * E S |q - c| for 1 bit, 6 % for 4 (medians; SIFT and MiniLM, about 125 vectors a posting). So add mult * S * noise.
 *
 * Both roundings grow with |q - m| and |c - m|, however near to each other q and c are. So m is one for the index, near
 * the mean, and each query is rotated once; but for a posting that lies so far from it that the rounding of a query
 * there would count (SPANN_FAR) m is its own centroid, which the sign of its header says: E is negative.
 *
 * Every integer sum is exact and no float operation is fused or reordered, so all SIMD levels give the same bits.
 * Pointers need no alignment unless said; sizes are trusted; values are finite with squared lengths below 1e37. */
#ifndef SPANN_CODES_H
#define SPANN_CODES_H

#include <stddef.h>
#include <stdint.h>

#include "format/posting_format.h"
#include "kernels/distance.h"

#define SPANN_ROTATION_ROUNDS 4
/* The share of E that the rounding of a query at c may have, where |q - c| is the root mean square of |r|. It adds the
 * half of its square, 5 %, to the standard error. Of SIFT and MiniLM no posting in 1000 is farther
 * (docs/decisions/0020). */
#define SPANN_FAR 0.3f

static inline size_t spann_padded_dim(size_t dim) { return (dim + 31) / 32 * 32; }

/* Bytes of one code row. A row is one plane of `bits` bits, for 3 bits a plane of the low 2 and then one of the high 1.
 * A plane of b bits is cut into chunks of 32 bytes, the last one shorter. In a chunk of n bytes that starts at
 * dimension g, byte j holds dimension g + i * n + j in bits [b i, b i + b), for i from 0 to 8 / b - 1. */
size_t spann_code_bytes(size_t padded, unsigned bits);

/* A query made ready for codes of `bits` bits: q_j ~ step * x_j, x in int8 (int16 for 8 bits) in the order of the
 * codes, and <u, q> ~ step * sum v_j x_j + offset. |x_j| <= 127, for 8 bits min(8191, (2^31 - 1) / (255 padded)): all
 * sums fit int32 up to padded = 32768. */
typedef struct {
    const void *data;
    float step, offset;
    float noise; /* standard deviation of the rounding's effect on <u, q>, for u of Gaussian residuals */
    uint32_t padded, bits;
} spann_code_query;

size_t spann_code_query_bytes(size_t padded, unsigned bits);

/* Whether the posting's origin is its own centroid. */
static inline int spann_code_is_far(const spann_code_header *h) { return h->error < 0; }

typedef struct {
    size_t dim;
    unsigned bits;
    int ip;                     /* 0: l2 */
    const float *origin;        /* (dim) m; 0 for ip, where the mean is no better */
    const int8_t *far;          /* (postings) whether the origin is the centroid; NULL: as SPANN_FAR says */
    const unsigned char *signs; /* (SPANN_ROTATION_ROUNDS, padded / 8) */
} spann_code_params;

typedef struct spann_encoder spann_encoder; /* scratch memory of spann_encode */

typedef struct {
    /* est (n) for n code rows. add, scale (n): little-endian uint16, may be unaligned, nothing is read beyond them; of
     * codes, SPANN_SLACK bytes beyond the last row may be read and do not matter. */
    void (*estimate)(const spann_code_query *q, const unsigned char *codes, const unsigned char *add,
                     const unsigned char *scale, const spann_code_header *h, float base, size_t n, float *est);
    /* sum_j v_j x_j of n code rows; reads as estimate does. */
    void (*dots)(const spann_code_query *q, const unsigned char *codes, size_t n, int32_t *out);
    /* The rotation: `signs` is SPANN_ROTATION_ROUNDS rows of padded / 8 bytes, bit j % 8 of byte j / 8 flips dimension
     * j in that round. out (padded), not overlapping x (dim). Orthonormal, so |out| = |x|. */
    void (*rotate)(const float *x, size_t dim, size_t padded, const unsigned char *signs, float *out);
    /* x (dim) less an origin of float32, float16 or bytes. */
    void (*less)(const float *x, const void *origin, spann_dtype dtype, size_t dim, float *out);
    /* rotated (padded) = R(q - m). `buffer`: spann_code_query_bytes(), aligned to 64, lives as long as `out` is used. */
    void (*prepare)(const float *rotated, size_t padded, unsigned bits, void *buffer, spann_code_query *out);
    /* far: 1, 0, or -1: as SPANN_FAR says. */
    void (*encode)(spann_encoder *e, const float *x, const float *centroid, int far, size_t n, unsigned char *codes,
                   unsigned char *add, unsigned char *scale, spann_code_header *h);
} spann_code_kernels;

/* The kernels of the present level (simd.h); NULL if that level is not available. */
const spann_code_kernels *spann_code_kernels_get(void);

/* Encodes whole postings: x (n, dim), the rows of posting p after those of p - 1; centroids (postings, dim); lengths
 * (postings), their sum n, 0 allowed (its header is all 0). Out: codes (n, spann_code_bytes), add and scale (n) as
 * above, headers (postings). One thread, and the result depends on the arguments only. 0, or -1 if memory ran out. */
int spann_encode(const spann_code_kernels *kernels, const spann_code_params *params, const float *x,
                 const float *centroids, const int64_t *lengths, size_t postings, unsigned char *codes,
                 unsigned char *add, unsigned char *scale, spann_code_header *headers);

#endif
