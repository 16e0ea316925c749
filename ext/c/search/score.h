/* Scoring exact vectors, wherever they were read. */
#ifndef SPANN_SCORE_H
#define SPANN_SCORE_H

#include "search/state.h"

/* Makes room in c->scores for n scores and whole blocks, which spann_within reads. 0, or -1 if memory ran out. */
int spann_room_for_scores(spann_context *c, size_t n);

/* Offers n exact vectors, with their ids, to the hits. A status. */
int spann_score_vectors(spann_context *c, spann_query *q, const unsigned char *vectors, size_t n,
                        const unsigned char *ids);

/* The same for rows `first` and after of the exact store, as far as they count. A status. */
int spann_score_rows(spann_context *c, spann_query *q, uint64_t first, const unsigned char *vectors, size_t n,
                     const unsigned char *ids);

#endif
