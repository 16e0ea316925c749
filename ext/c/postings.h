/* The bytes of posting lists (docs/FORMAT.md, Postings): n ids, then n vectors, no padding between. */
#ifndef SPANN_POSTINGS_H
#define SPANN_POSTINGS_H

#include <stddef.h>
#include <stdint.h>

/* Writes `postings` lists into out. Entries of all lists follow each other in ids (entry, id_bytes) and vectors (entry,
 * vector_bytes); list p has lengths[p] entries and starts at out + starts[p]. crcs[p] becomes the crc32c of its bytes. The
 * caller has made sure that every list fits. */
void spann_pack_postings(const unsigned char *ids, size_t id_bytes, const unsigned char *vectors, size_t vector_bytes,
                         const uint16_t *lengths, const uint64_t *starts, size_t postings, unsigned char *out,
                         uint32_t *crcs);

#endif
