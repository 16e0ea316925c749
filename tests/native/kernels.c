/* Runs the kernels on made-up numbers and prints a CRC-32C of what each gives: the same lines on every processor and at
 * every SIMD level. scripts/cross compares them. Ends with 1 where a value is wrong for certain. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "building/cluster.h"
#include "kernels/codes.h"
#include "base/crc32c.h"
#include "kernels/distance.h"
#include "io/io.h"
#include "building/pages.h"
#include "search/topk.h"

enum { ROWS = 300, LARGEST = 200 };

static uint64_t state = 1;

/* splitmix64 */
static uint64_t next(void) {
    uint64_t z = (state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static void floats(float *out, size_t n) {
    for (size_t i = 0; i < n; i++) out[i] = (float)((double)(next() >> 40) / (1 << 24) * 4 - 2);
}

static void check(int holds, const char *what) {
    if (holds) return;
    fprintf(stderr, "wrong: %s\n", what);
    exit(1);
}

static void *room(size_t bytes) {
    void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
    check(p != NULL, "memory");
    return p;
}

static void tell(const char *name, size_t a, size_t b, const void *data, size_t bytes) {
    printf("%s %zu %zu %08x\n", name, a, b, spann_crc32c(0, data, bytes));
}

/* Rows of each type that hold finite values: random bytes, for float16 and bfloat16 with an exponent that is small. */
static void rows_of(spann_dtype type, unsigned char *out, size_t values) {
    if (type == SPANN_F32) {
        floats((float *)out, values);
        return;
    }
    for (size_t i = 0; i < values * spann_dtype_size(type); i++) out[i] = (unsigned char)next();
    if (type != SPANN_F16 && type != SPANN_BF16) return;
    for (size_t i = 0; i < values; i++) {
        uint16_t bits = (uint16_t)next(), part = type == SPANN_F16 ? bits & 0xbfffu : (bits & 0x807fu) | 0x3f00u;
        memcpy(out + 2 * i, &part, 2);
    }
}

static void distances(const spann_kernels *kernels) {
    static const size_t dims[] = {1, 3, 8, 16, 17, 31, 64, 100, 128, LARGEST};
    float *out = room(ROWS * sizeof *out);
    unsigned char *rows = room(ROWS * LARGEST * 4);
    float *query = room(LARGEST * sizeof *query);
    uint32_t index[ROWS];
    for (size_t i = 0; i < ROWS; i++) index[i] = (uint32_t)((i * 7) % ROWS);
    for (int type = 0; type < SPANN_DTYPES; type++)
        for (size_t d = 0; d < sizeof dims / sizeof *dims; d++) {
            rows_of((spann_dtype)type, rows, ROWS * dims[d]);
            int wide = type == SPANN_F16 || type == SPANN_BF16;
            rows_of(wide ? SPANN_F32 : (spann_dtype)type, (unsigned char *)query, dims[d]);
            for (int metric = 0; metric < SPANN_METRICS; metric++) {
                if (kernels->score[metric][type] == NULL) continue;
                kernels->score[metric][type](query, rows, ROWS, dims[d], out);
                for (size_t i = 0; i < ROWS; i++) check(isfinite(out[i]), "a distance is not finite");
                tell("score", (size_t)(metric * SPANN_DTYPES + type), dims[d], out, ROWS * sizeof *out);
                kernels->gather[metric][type](query, rows, index, ROWS, dims[d], out);
                tell("gather", (size_t)(metric * SPANN_DTYPES + type), dims[d], out, ROWS * sizeof *out);
            }
        }
    free(out), free(rows), free(query);
}

static void codes(const spann_code_kernels *kernels, int ip, size_t dim, unsigned bits) {
    size_t padded = spann_padded_dim(dim), bytes = spann_code_bytes(padded, bits);
    float *x = room(ROWS * dim * 4), *centroid = room(dim * 4), *origin = room(dim * 4), *rotated = room(padded * 4);
    unsigned char *signs = room(SPANN_ROTATION_ROUNDS * padded / 8), *code = room(ROWS * bytes + SPANN_SLACK);
    unsigned char *add = room(2 * ROWS), *scale = room(2 * ROWS);
    memset(code, 0, ROWS * bytes + SPANN_SLACK);
    floats(x, ROWS * dim), floats(centroid, dim), memset(origin, 0, dim * 4);
    for (size_t i = 0; i < SPANN_ROTATION_ROUNDS * padded / 8; i++) signs[i] = (unsigned char)next();
    spann_code_params params = {.dim = dim, .bits = bits, .ip = ip, .origin = origin, .signs = signs};
    spann_code_header header;
    int64_t length = ROWS;
    check(spann_encode(kernels, &params, x, centroid, &length, 1, code, add, scale, &header) == 0, "encode");
    tell("code", bits, dim, code, ROWS * bytes);
    tell("factors", bits, dim, add, 2 * ROWS);
    tell("header", bits, dim, &header, sizeof header);
    kernels->rotate(x, dim, padded, signs, rotated);
    tell("rotate", bits, dim, rotated, padded * 4);
    void *buffer = room(spann_code_query_bytes(padded, bits));
    spann_code_query query;
    kernels->prepare(rotated, padded, bits, buffer, &query);
    tell("prepare", bits, dim, query.data, spann_code_query_bytes(padded, bits));
    float base = 0, est[ROWS];
    for (size_t j = 0; j < dim; j++) {
        float d = ip ? 0 : x[j] - centroid[j];
        base += ip ? -x[j] * centroid[j] : d * d;
    }
    kernels->estimate(&query, code, add, scale, &header, base, ROWS, est);
    tell("estimate", bits, dim, est, sizeof est);
    int32_t dots[ROWS];
    kernels->dots(&query, code, ROWS, dots);
    tell("dots", bits, dim, dots, sizeof dots);
    free(x), free(centroid), free(origin), free(rotated), free(signs), free(code), free(add), free(scale), free(buffer);
}

static void clusters(const spann_kernels *kernels) {
    enum { DIM = 24, N = 2000, LEAVES = 60 };
    float *x = room(N * DIM * 4);
    int64_t *rows = room(N * 8), *order = room(N * 8), length = N, bounds[] = {400, 800, 1200, 1600};
    uint32_t end[LEAVES], rep[LEAVES], group[LEAVES];
    floats(x, N * DIM);
    for (int64_t i = 0; i < N; i++) rows[i] = i;
    spann_cluster_params params = {
        .leaves = LEAVES, .group_rows = 128, .iterations = 8, .balance = 0.2f, .slack = 1.1, .seed = 3};
    int64_t made = spann_cluster(kernels, x, rows, N, DIM, &params, end, rep, group);
    check(made > 1 && made <= LEAVES && end[made - 1] == N, "clusters");
    tell("cluster", N, (size_t)made, rows, N * 8);
    check(spann_arrange(kernels, x, DIM, &length, 1, bounds, 4, order) == 0, "arrange");
    tell("arrange", N, DIM, order, N * 8);
    free(x), free(rows), free(order);
}

static void nearest(void) {
    spann_topk best;
    check(spann_topk_init(&best, 10) == 0, "topk");
    for (uint64_t i = 0; i < 5000; i++) check(spann_topk_push(&best, (float)(next() % 1000), i % 3000) == 0, "push");
    spann_topk_sort(&best);
    for (size_t i = 1; i < best.size; i++) check(best.heap[i - 1].distance <= best.heap[i].distance, "order");
    for (size_t i = 0; i < best.size; i++) printf("topk %g %llu\n", best.heap[i].distance, (unsigned long long)best.heap[i].id);
    spann_topk_free(&best);
}

static void reads(int backend) {
    enum { SIZE = 1 << 18, READS = 64 };
    unsigned char *written = room(SIZE), *back = room(SIZE);
    for (size_t i = 0; i < SIZE; i++) written[i] = (unsigned char)next();
    FILE *file = tmpfile();
    check(file != NULL && fwrite(written, 1, SIZE, file) == SIZE && fflush(file) == 0, "a file");
    int error = 0;
    spann_io *io = spann_io_open(backend, 16, &error);
    check(io != NULL, "open");
    spann_read_done done[READS];
    int open = 0;
    for (uint64_t i = 0; i < READS; i++) {
        uint64_t at = i * (SIZE / READS);
        spann_read one = {.file = {fileno(file)}, .bytes = SIZE / READS, .offset = at, .buffer = back + at, .tag = i};
        check(spann_io_start(io, &one) == 0, "start");
        if (++open == 16) {
            int got = spann_io_wait(io, done, READS, 1);
            check(got > 0, "wait");
            for (int j = 0; j < got; j++) check(done[j].result == SIZE / READS, "a read");
            open -= got;
        }
    }
    while (open > 0) {
        int got = spann_io_wait(io, done, READS, (unsigned)open);
        check(got > 0, "wait");
        open -= got;
    }
    check(memcmp(written, back, SIZE) == 0, "what was read");
    spann_io_close(io), fclose(file), free(written), free(back);
}

int main(void) {
    check(spann_crc32c(0, "123456789", 9) == 0xE3069283u, "crc32c");
    check(spann_crc32c_scalar(0, "123456789", 9) == 0xE3069283u, "crc32c by tables");
    const spann_kernels *kernels = spann_kernels_get();
    const spann_code_kernels *code_kernels = spann_code_kernels_get();
    check(kernels != NULL && code_kernels != NULL, "the SIMD level");
    distances(kernels);
    static const unsigned bits[] = {1, 2, 3, 4, 8};
    static const size_t dims[] = {5, 32, 100, LARGEST};
    for (size_t b = 0; b < 5; b++)
        for (size_t d = 0; d < 4; d++)
            for (int ip = 0; ip < 2; ip++) codes(code_kernels, ip, dims[d], bits[b]);
    clusters(kernels);
    nearest();
    reads(SPANN_IO_AUTO), reads(SPANN_IO_POOL), reads(SPANN_IO_SYNC);
    return 0;
}
