/* CRC-32C (Castagnoli, RFC 3720): the checksum of shard indexes and of every inner chunk on disk.
 *
 * Contract: `data` may be NULL only when n is 0; it needs no alignment. `crc` is 0 to start, or the result for the
 * bytes before: crc32c(crc32c(0, a), b) == crc32c(0, ab). Nothing is allocated, nothing fails, any thread may call.
 */
#ifndef SPANN_CRC32C_H
#define SPANN_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* Uses the fastest code for this machine. SPANN_SIMD=scalar in the environment at load forces the tables. */
uint32_t spann_crc32c(uint32_t crc, const void *data, size_t n);

/* The same value by tables alone, on any machine. */
uint32_t spann_crc32c_scalar(uint32_t crc, const void *data, size_t n);

/* 1 when spann_crc32c uses the CRC instruction, 0 when it uses tables. */
int spann_crc32c_is_hardware(void);

#endif
