/* The SIMD level of the kernels: the widest of this processor, or the level that SPANN_SIMD names. */
#ifndef SPANN_SIMD_H
#define SPANN_SIMD_H

typedef enum { SPANN_SCALAR = 0, SPANN_AVX2 = 1, SPANN_AVX512 = 2 } spann_simd;

/* The present level, or -1 if SPANN_SIMD names a level that is unknown or that this processor lacks. Each call reads
 * SPANN_SIMD (one call per batch), so a test can try all levels in one process. */
int spann_simd_level(void);

/* The widest level of this processor. */
int spann_simd_widest(void);

#endif
