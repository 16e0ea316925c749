/* From the metric's distances to those of the spaces a search computes in, and back (docs/DESIGN.md, Metrics).
 *
 * The working space is that of coded centroids and codes. The query has its own length there under l2, length 1 under
 * cosine, and a typical vector's length under ip, because an estimate's error grows with the distance to centroids. */
#ifndef SPANN_SPACE_H
#define SPANN_SPACE_H

#include "search/state.h"

/* Sets the query's norms, scale, b and reach, and what its kind of postings needs besides. */
void spann_enter_space(spann_context *c, spann_query *q);
/* For codes: sets scale and b to those of the working space, and makes the query's code. */
void spann_enter_code_space(spann_context *c, spann_query *q);

/* The query in the working space (dim). Valid until that of another query is asked for. */
const float *spann_working_query(spann_context *c, const spann_query *q);

/* The code of the query that fits entries with this header. Valid until the next is asked for. */
const spann_code_query *spann_code_for(spann_context *c, const spann_query *q, const spann_visit *visit,
                                       const spann_code_header *header);

/* Squared distance, in the space the index was clustered in, of a centroid with this score. Ratios mean something
 * there. */
double spann_geometric_sqdist(const spann_context *c, const spann_query *q, float value);

/* A hit's distance in the metric's unit. */
float spann_true_distance(const spann_index *index, double distance);

#endif
