#include "postings.h"

#include <string.h>

#include "crc32c.h"

void spann_pack_postings(const unsigned char *ids, size_t id_bytes, const unsigned char *vectors, size_t vector_bytes,
                         const uint16_t *lengths, const uint64_t *starts, size_t postings, unsigned char *out,
                         uint32_t *crcs) {
    for (size_t p = 0; p < postings; p++) {
        size_t n = lengths[p];
        unsigned char *to = out + starts[p];
        memcpy(to, ids, n * id_bytes);
        memcpy(to + n * id_bytes, vectors, n * vector_bytes);
        crcs[p] = spann_crc32c(0, to, n * (id_bytes + vector_bytes));
        ids += n * id_bytes;
        vectors += n * vector_bytes;
    }
}
