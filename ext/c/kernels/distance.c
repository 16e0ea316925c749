/* One body, compiled once per SIMD level: the pragma sets the level for all that follows it. */
#include "kernels/distance.h"

#include <math.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "base/simd.h"

/* 1 - cos below which it is computed from the chord: above, 1 less the quotient keeps 13 digits of 16. */
#define SHORT_CHORD 0x1p-10
/* And below which it is rounding: the vectors are parallel. */
#define NO_CHORD 0x1p-100

#define LEVEL(name) name##_scalar
#include "kernels/distance.inc"
#undef LEVEL

#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target("avx2,f16c")
#define LEVEL(name) name##_avx2
#include "kernels/distance.inc"
#undef LEVEL
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,prefer-vector-width=512")
#define LEVEL(name) name##_avx512
#include "kernels/distance.inc"
#undef LEVEL
#pragma GCC pop_options
#endif

const spann_kernels *spann_kernels_get(void) {
    switch (spann_simd_level()) {
    case SPANN_SCALAR:
        return &table_scalar;
#if defined(__x86_64__)
    case SPANN_AVX2:
        return &table_avx2;
    case SPANN_AVX512:
        return &table_avx512;
#endif
    default:
        return NULL;
    }
}
