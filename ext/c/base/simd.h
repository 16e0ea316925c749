/* Which SIMD level the kernels run at: the widest this processor has, or what SPANN_SIMD asks for. */
#ifndef SPANN_SIMD_H
#define SPANN_SIMD_H

typedef enum { SPANN_SCALAR = 0, SPANN_AVX2 = 1, SPANN_AVX512 = 2 } spann_simd;

/* The level in force, or -1 if SPANN_SIMD names no level, or one that this processor lacks. SPANN_SIMD is read at every
 * call (one per batch), so that a test can walk through the levels within one process. */
int spann_simd_level(void);

/* The widest level of this processor. */
int spann_simd_widest(void);

#endif
