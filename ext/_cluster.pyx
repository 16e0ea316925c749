"""Thin doors to ext/c/building/cluster.h; spann._kernels.clustering checks the arguments."""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint32_t, uint64_t


from c_kernels cimport spann_kernels, spann_kernels_get


cdef extern from "building/cluster.h" nogil:
    ctypedef struct spann_cluster_params:
        size_t leaves
        size_t group_rows
        int iterations
        float balance
        double slack
        uint64_t seed
    ctypedef struct spann_closure_params:
        size_t near
        size_t replicas
        float reach
        float rng
    int64_t spann_cluster(const spann_kernels *, float *, int64_t *, size_t, size_t, const spann_cluster_params *,
                          uint32_t *, uint32_t *, uint32_t *)
    int spann_balanced_kmeans(const spann_kernels *, const float *, size_t, size_t, size_t, int, float, uint64_t,
                              float *, float *)
    int spann_closure(const spann_kernels *, const float *, const float *, size_t, size_t, size_t,
                      size_t, const spann_closure_params *, uint32_t *, float *, uint32_t *)


def cluster(float[:, ::1] x, int64_t[::1] rows, size_t leaves, size_t group_rows, int iterations, float balance,
            double slack, uint64_t seed, uint32_t[::1] leaf_end, uint32_t[::1] leaf_rep, uint32_t[::1] leaf_group):
    cdef const spann_kernels *kernels = spann_kernels_get()
    cdef spann_cluster_params params
    cdef int64_t made
    if kernels == NULL:
        return -2
    params.leaves = leaves
    params.group_rows = group_rows
    params.iterations = iterations
    params.balance = balance
    params.slack = slack
    params.seed = seed
    with nogil:
        made = spann_cluster(kernels, &x[0, 0], &rows[0], x.shape[0], x.shape[1], &params, &leaf_end[0], &leaf_rep[0],
                             &leaf_group[0])
    return made


def balanced_kmeans(const float[:, ::1] x, int iterations, float balance, uint64_t seed, float[:, ::1] centres,
                    float[::1] weights):
    cdef const spann_kernels *kernels = spann_kernels_get()
    cdef int status
    if kernels == NULL:
        return -2
    with nogil:
        status = spann_balanced_kmeans(kernels, &x[0, 0], x.shape[0], x.shape[1], centres.shape[0], iterations,
                                       balance, seed, &centres[0, 0], &weights[0])
    return status


def closure(const float[:, ::1] sqdist, const float[:, :] centroids, size_t near, float reach, float rng,
            uint32_t[:, ::1] chosen, float[:, ::1] chosen_sqdist, uint32_t[::1] counts):
    cdef const spann_kernels *kernels = spann_kernels_get()
    cdef spann_closure_params params
    cdef int status
    if kernels == NULL:
        return -2
    params.near = near
    params.replicas = chosen.shape[1]
    params.reach = reach
    params.rng = rng
    with nogil:
        status = spann_closure(kernels, &sqdist[0, 0], &centroids[0, 0], centroids.strides[0] // sizeof(float),
                               sqdist.shape[0], sqdist.shape[1], centroids.shape[1], &params, &chosen[0, 0],
                               &chosen_sqdist[0, 0], &counts[0])
    return status
