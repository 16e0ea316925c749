/* Re-ranking candidates exactly, in waves of pages of the exact store. Only postings of codes have candidates. */
#ifndef SPANN_RERANK_H
#define SPANN_RERANK_H

#include "search/places.h"

/* Called when all visits are scored, and again when all fetches of a wave are: plans the next wave. No fetches mean
 * that none is needed. A status. */
int spann_rerank_plan(spann_context *c, spann_query *q);

/* What to read for a fetch. */
spann_place spann_fetch_place(const spann_context *c, const spann_query *q, const spann_fetch *fetch);

/* Checks and scores what was read for a fetch. A status. */
int spann_rerank_fetch(spann_context *c, spann_query *q, const spann_fetch *fetch, const unsigned char *content);

/* Scores the rows of one span, whose pages were checked. A status. */
int spann_rerank_span(spann_context *c, spann_query *q, const spann_span *span, const unsigned char *content);

#endif
