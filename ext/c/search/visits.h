/* From a query to the postings it scores: the nearest centroids, and which of their postings reach towards it. */
#ifndef SPANN_VISITS_H
#define SPANN_VISITS_H

#include "search/state.h"

/* Navigates and prunes. Leaves the postings to score in `visits`, nearest centroid first. A status. */
int spann_visits_find(spann_context *c, spann_query *q);

/* Called when all visits are scored: adds some if the effort is for fewer vectors than count. *next is the visit to score
 * next. It becomes 0 if all are scored again, because more candidates are wanted than were kept. A status. */
int spann_visits_extend(spann_context *c, spann_query *q, size_t *next);

/* Sorts the visits by the first row of their postings. A status. */
int spann_visits_sort_by_row(spann_context *c, spann_query *q);

#endif
