/* The bytes of posting lists (docs/FORMAT.md, Postings). The caller has made sure that every list fits. */
#ifndef SPANN_POSTINGS_H
#define SPANN_POSTINGS_H

#include <stddef.h>
#include <stdint.h>

/* Writes `postings` lists of ids and vectors into out. Entries of all lists follow each other in ids (entry, id_bytes) and
 * vectors (entry, vector_bytes); list p has lengths[p] entries and starts at out + starts[p]. crcs[p] becomes the crc32c
 * of its bytes. */
void spann_pack_postings(const unsigned char *ids, size_t id_bytes, const unsigned char *vectors, size_t vector_bytes,
                         const uint16_t *lengths, const uint64_t *starts, size_t postings, unsigned char *out,
                         uint32_t *crcs);

typedef struct {
    const unsigned char *headers;     /* (posting, SPANN_POSTING_HEADER) */
    const unsigned char *ids;         /* (entry, id_bytes) */
    const unsigned char *add, *scale; /* (entry, 2) each */
    const unsigned char *rows;        /* (replica, row_bytes): rows of the exact store */
    const unsigned char *codes;       /* (entry, code_bytes) */
    size_t id_bytes, row_bytes, code_bytes;
} spann_coded;

#define SPANN_POSTING_HEADER 20

/* The same for lists of codes. List p has lengths[p] entries, of which all after the first primaries[p] are replicas; an
 * empty list takes no bytes. */
void spann_pack_coded(const spann_coded *from, const uint16_t *lengths, const uint16_t *primaries,
                      const uint64_t *starts, size_t postings, unsigned char *out, uint32_t *crcs);

#endif
