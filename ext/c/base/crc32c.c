#include "base/crc32c.h"

#include <stdlib.h>
#include <string.h>

#define POLYNOMIAL 0x82F63B78u /* Castagnoli, lowest bit first */

/* Inside this file a "register" is the running remainder without the two inversions of the public value. It is linear
 * over XOR, so three lanes can run apart and be joined afterwards. */

/* slice[k][b]: the register after byte b followed by k zero bytes, from a register of 0. */
static uint32_t slice[8][256];

static uint64_t load_le64(const uint8_t *p)
{
    uint64_t word;
    memcpy(&word, p, sizeof word);
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    word = __builtin_bswap64(word);
#endif
    return word;
}

static uint32_t run_scalar(uint32_t reg, const uint8_t *p, size_t n)
{
    for (; n >= 8; n -= 8, p += 8) {
        uint64_t w = load_le64(p) ^ reg;
        reg = slice[7][w & 255] ^ slice[6][w >> 8 & 255] ^ slice[5][w >> 16 & 255] ^ slice[4][w >> 24 & 255] ^
              slice[3][w >> 32 & 255] ^ slice[2][w >> 40 & 255] ^ slice[1][w >> 48 & 255] ^ slice[0][w >> 56];
    }
    for (; n; n--, p++)
        reg = reg >> 8 ^ slice[0][(reg ^ *p) & 255];
    return reg;
}

static void fill_slices(void)
{
    for (uint32_t b = 0; b < 256; b++) {
        uint32_t reg = b;
        for (int bit = 0; bit < 8; bit++)
            reg = reg >> 1 ^ (reg & 1 ? POLYNOMIAL : 0);
        slice[0][b] = reg;
    }
    for (int k = 1; k < 8; k++)
        for (int b = 0; b < 256; b++)
            slice[k][b] = slice[k - 1][b] >> 8 ^ slice[0][slice[k - 1][b] & 255];
}

static uint32_t (*run)(uint32_t reg, const uint8_t *p, size_t n) = run_scalar;

#if defined(__x86_64__)

#include <nmmintrin.h>

/* The crc32 instruction takes 3 cycles, but one can start each cycle. So three lanes of one buffer run side by side.
 * Lane lengths are multiples of 8. Three long lanes are 4032 bytes: a 4 KiB page is one round and 64 bytes. A 32 KiB
 * chunk is eight rounds, one short round and 128 bytes. docs/decisions/0030 says why not longer
 * lanes, and why tables join them. */
enum { LONG_LANE = 1344, SHORT_LANE = 128 };

/* Moves a register past a fixed count of zero bytes: at[i][b] is the contribution of byte i of the register, if its
 * value is b. */
typedef struct {
    uint32_t at[4][256];
} shift_table;

static shift_table long_shift, short_shift;

static uint32_t skip_zeros(uint32_t reg, size_t n)
{
    for (; n; n -= 4)
        reg = slice[3][reg & 255] ^ slice[2][reg >> 8 & 255] ^ slice[1][reg >> 16 & 255] ^ slice[0][reg >> 24];
    return reg;
}

static void fill_shift(shift_table *table, size_t n)
{
    for (int i = 0; i < 4; i++)
        for (uint32_t b = 1; b < 256; b++) {
            uint32_t rest = b & (b - 1);
            table->at[i][b] = rest ? table->at[i][rest] ^ table->at[i][b ^ rest] : skip_zeros(b << 8 * i, n);
        }
}

static inline uint32_t shift(const shift_table *table, uint32_t reg)
{
    return table->at[0][reg & 255] ^ table->at[1][reg >> 8 & 255] ^ table->at[2][reg >> 16 & 255] ^
           table->at[3][reg >> 24];
}

__attribute__((target("sse4.2"))) static inline uint32_t
run_three_lanes(uint32_t reg, const uint8_t *p, size_t lane, const shift_table *table)
{
    uint64_t a = reg, b = 0, c = 0;
    for (size_t i = 0; i < lane; i += 8) {
        a = _mm_crc32_u64(a, load_le64(p + i));
        b = _mm_crc32_u64(b, load_le64(p + lane + i));
        c = _mm_crc32_u64(c, load_le64(p + 2 * lane + i));
    }
    return shift(table, shift(table, (uint32_t)a) ^ (uint32_t)b) ^ (uint32_t)c;
}

__attribute__((target("sse4.2"))) static uint32_t run_hardware(uint32_t reg, const uint8_t *p, size_t n)
{
    for (; n >= 3 * LONG_LANE; n -= 3 * LONG_LANE, p += 3 * LONG_LANE)
        reg = run_three_lanes(reg, p, LONG_LANE, &long_shift);
    for (; n >= 3 * SHORT_LANE; n -= 3 * SHORT_LANE, p += 3 * SHORT_LANE)
        reg = run_three_lanes(reg, p, SHORT_LANE, &short_shift);
    for (; n >= 8; n -= 8, p += 8)
        reg = (uint32_t)_mm_crc32_u64(reg, load_le64(p));
    for (; n; n--, p++)
        reg = _mm_crc32_u8(reg, *p);
    return reg;
}

static void choose(void)
{
    const char *level = getenv("SPANN_SIMD");
    __builtin_cpu_init();
    if ((level && strcmp(level, "scalar") == 0) || !__builtin_cpu_supports("sse4.2"))
        return;
    fill_shift(&long_shift, LONG_LANE);
    fill_shift(&short_shift, SHORT_LANE);
    run = run_hardware;
}

#else

static void choose(void)
{
}

#endif

/* Runs at load, before any thread can call, so calls need no lock and no check. Takes about 30 us. */
__attribute__((constructor)) static void prepare(void)
{
    fill_slices();
    choose();
}

uint32_t spann_crc32c(uint32_t crc, const void *data, size_t n)
{
    return ~run(~crc, data, n);
}

uint32_t spann_crc32c_scalar(uint32_t crc, const void *data, size_t n)
{
    return ~run_scalar(~crc, data, n);
}

int spann_crc32c_is_hardware(void)
{
    return run != run_scalar;
}
