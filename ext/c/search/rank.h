/* Under a filter, how many vectors of any kind are nearer than the k-th that matches. The effort of a query goes by
 * that number: if it is c, then the k-th match is one of the c nearest vectors, and what finds c neighbours finds it.
 *
 * Scores of all vectors looked at are sampled, matches or not, in blocks that the posting's number chooses. So the
 * outcome does not depend on the order in which postings are scored. */
#ifndef SPANN_RANK_H
#define SPANN_RANK_H

#include "search/state.h"

/* Samples the `n` scores of a posting. Those above `limit` are left out: they are farther than the k-th match. One block
 * of scores behind the last must be readable. 0, or -1 if memory ran out. */
int spann_rank_sample(spann_query *q, uint32_t posting, const float *scores, size_t n, float limit);

/* About how many of the vectors scored are nearer than the k-th match; infinite if fewer than k matches were found.
 * Negative if memory ran out. */
double spann_rank_nearer(spann_context *c, const spann_query *q);

/* Candidates that are wanted for the effort of the query: as many as vectors are nearer than the k-th match. Matches are
 * all about as far as these, and codes tell few of them apart. */
uint64_t spann_rank_candidates(const spann_context *c, const spann_query *q);

/* Makes room for as many, once the effort has grown. Sets *again if candidates were dropped that are wanted now: then
 * all postings must be scored again. A status. */
int spann_rank_widen(spann_context *c, spann_query *q, int *again);

#endif
