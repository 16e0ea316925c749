/* One query from beginning to end, in either order of work: navigate, score postings, read what the kind of postings
 * still wants, collect. The result does not depend on the order in which postings and pages arrive. All selections
 * break ties by row or id, and the pages read depend only on the estimates and on the distances of complete waves. */
#ifndef SPANN_QUERY_H
#define SPANN_QUERY_H

#include "search/visits.h"

/* Takes the query as given, and navigates. A status. */
int spann_query_begin(spann_context *c, spann_query *q, const void *raw, spann_query_stats *stats);

/* Finds the postings to score. A later `attempt` looks four times as far as the one before, without pruning, and scores
 * again what was scored. A status. */
int spann_query_navigate(spann_context *c, spann_query *q);

/* Whether a visit's posting must be read to be scored: it is not pinned, and has entries that count. */
static inline int spann_query_reads(const spann_context *c, const spann_visit *visit) {
    return visit->posting >= c->index->pinned && c->live_length[visit->posting] > 0;
}

/* Scores a visit: its posting and its tail. `content` is what was read of the posting, NULL if it need not be read.
 * Visits up to `end` are expected next. A status. */
int spann_query_score(spann_context *c, spann_query *q, spann_visit *visit, const spann_visit *end,
                      const unsigned char *content);

/* Whether fewer than k vectors were found though the index has more. Then count up `attempt` and navigate again. */
int spann_query_short(const spann_context *c, const spann_query *q);

/* Writes the k results. */
void spann_query_finish(const spann_context *c, spann_query *q, int64_t *ids, float *distances);

#endif
