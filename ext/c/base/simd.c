#include "base/simd.h"

#include <stdlib.h>
#include <string.h>

int spann_simd_widest(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq"))
        return SPANN_AVX512;
    if (__builtin_cpu_supports("avx2")) return SPANN_AVX2;
#endif
    return SPANN_SCALAR;
}

int spann_simd_level(void) {
    const char *asked = getenv("SPANN_SIMD");
    int widest = spann_simd_widest();
    if (asked == NULL || *asked == '\0') return widest;
    static const char *const names[] = {"scalar", "avx2", "avx512"};
    for (int level = SPANN_SCALAR; level <= SPANN_AVX512; level++)
        if (strcmp(asked, names[level]) == 0) return level <= widest ? level : -1;
    return -1;
}
