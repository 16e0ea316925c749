/* The order of vectors in the pages of the exact store: near vectors of a posting share pages. */
#ifndef SPANN_PAGES_H
#define SPANN_PAGES_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/distance.h"

/* Orders the rows of each of `postings` lists. List p is the next lengths[p] rows of x (n, dim); the sum of lengths is
 * n. bounds (bound_count) are the rows at which pages begin, ascending in (0, n). A list with bounds inside is halved
 * at the bound nearest to its middle, and its halves again. Output: order (n), the row for each place, within its list.
 * x is overwritten. One thread, no randomness; values are finite. Returns 0, or -1 if memory ran out. */
int spann_arrange(const spann_kernels *kernels, float *x, size_t dim, const int64_t *lengths, size_t postings,
                  const int64_t *bounds, size_t bound_count, int64_t *order);

#endif
