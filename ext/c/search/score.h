/* Scoring what was read: postings offer estimates to the candidates, or exact distances to the hits. */
#ifndef SPANN_SCORE_H
#define SPANN_SCORE_H

#include "search/state.h"

/* Scores the bytes of a posting, which SPANN_SLACK readable bytes follow. Keeps its ids, unless the batch does. A
 * status. */
int spann_score_posting(spann_context *c, spann_query *q, spann_visit *visit, const unsigned char *content);

/* The same for a pinned posting. It prefetches for the visits after it, up to `end`, which are expected next. */
int spann_score_pinned(spann_context *c, spann_query *q, const spann_visit *visit, const spann_visit *end);

/* Offers n rows of exact vectors, with their ids, to the hits. A status. */
int spann_score_rows(spann_context *c, spann_query *q, const unsigned char *rows, size_t n, const unsigned char *ids);

#endif
