/* Scoring exact vectors, wherever they were read. */
#ifndef SPANN_SCORE_H
#define SPANN_SCORE_H

#include "search/state.h"

/* Makes room in c->scores for n scores and whole blocks, which spann_within reads. 0, or -1 if memory ran out. */
int spann_room_for_scores(spann_context *c, size_t n);

/* Offers n rows of exact vectors, with their ids, to the hits. A status. */
int spann_score_rows(spann_context *c, spann_query *q, const unsigned char *rows, size_t n, const unsigned char *ids);

#endif
