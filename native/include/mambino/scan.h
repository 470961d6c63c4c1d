/* The selective scan, the short causal convolution before it, and the normalisation around both, on a processor.
 *
 *     step[t]  = softplus(raw[t] + bias)                            softplus and bias where asked for
 *     h[t]     = exp(step[t] A) h[t-1] + step[t] B[t] u[t]
 *     y[t]     = (C[t] . h[t] + D u[t]) * silu(z[t])                D and z where given
 *
 * for each sample and channel; h has `states` numbers a channel. raw[t] is given, or is the product of `rank`
 * numbers of the token with a matrix `W`. Activations are token-major: the channels of a token lie side by side,
 * tokens and samples at any distance. `order` says which token comes at which step, so that an image may be read
 * by rows, by columns or backwards without being copied.
 *
 * All numbers are float32, or all float64. Nothing is kept between calls but the threads. Equal inputs give equal
 * bits on one instruction set with the same number of threads; what goes forward does not depend on that number.
 */
#ifndef MAMBINO_SCAN_H
#define MAMBINO_SCAN_H

#include <stdint.h>

#if defined(_WIN32)
#define MAMBINO_API __declspec(dllexport)
#else
#define MAMBINO_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Steps between two states that the gradient starts from. */
#define MAMBINO_CHUNK 32

enum mambino_status {
    MAMBINO_OK = 0,
    MAMBINO_BAD_ARGUMENT = 1, /* a size, a stride, a missing pointer, an order that leaves the sequence */
    MAMBINO_NO_MEMORY = 2,
    MAMBINO_BAD_TYPE = 3, /* neither 4 nor 8 bytes a number */
    MAMBINO_FAILED = 4
};

/* Rows of numbers, one row a token: [batch, token, channel] with neighbouring channels side by side. */
typedef struct {
    void *data;
    int64_t batch, token; /* distance of neighbours (numbers) */
    int64_t group;        /* distance of the parts for each group of channels; B and C only */
} mambino_rows;

typedef struct {
    int64_t batch, length, channels, states;
    int64_t groups;                 /* of channels, each with a B and a C of its own */
    int64_t rank;                   /* 0: `delta` has a number for each channel; else so many for all of them */
    int32_t softplus;               /* the step size goes through it */
    int32_t accumulate;             /* add to y, and in the gradients to u, delta, z, B and C, instead of writing */
    int32_t constant_B, constant_C; /* [channels, states] instead of rows */
    mambino_rows u, delta, B, C, z, y;
    const void *A;        /* [channels, states], negative */
    const void *W;        /* [channels, rank] */
    const void *D, *bias; /* [channels], or null */
    const void *state;    /* [batch, channels, states] before the first step, or null: zeros */
    const int32_t *order; /* [length] the token of each step, or null: as they lie */
    void *last;           /* [batch, channels, states] after the last step, or null */
    void *saved;          /* [batch, ceil(length / MAMBINO_CHUNK), states, channels] before each chunk, or null */
} mambino_scan;

/* Gradients: of y and `last` come in, the others go out; each may be null if its input is. */
typedef struct {
    mambino_rows y;
    const void *last;
    mambino_rows u, delta, B, C, z;
    void *A, *W, *D, *bias, *state;
} mambino_scan_gradients;

/* y[t] = act(bias + sum over k of w[k] x[t - K + 1 + k]), each channel by itself; `before` is what came before x. */
typedef struct {
    int64_t batch, length, channels, kernel;
    int32_t silu;
    mambino_rows x, y;
    const void *weight, *bias; /* [channels, kernel], [channels] or null */
    const void *before;        /* [batch, kernel - 1, channels], or null: zeros */
} mambino_conv;

typedef struct {
    mambino_rows y;             /* comes in */
    mambino_rows x;             /* goes out */
    void *weight, *bias;        /* go out, summed over batch and tokens */
} mambino_conv_gradients;

/* y = act((x - mean) / sqrt(variance + eps) * weight + bias); mean and variance of each sample and group of channels,
 * over all tokens. `mean` and `scale`, [batch, groups], are written forward and read backward. */
typedef struct {
    int64_t batch, length, channels, groups;
    double eps;
    int32_t relu;
    mambino_rows x, y;
    const void *weight, *bias; /* [channels] */
    void *mean, *scale;        /* scale: 1 / sqrt(variance + eps) */
} mambino_norm;

typedef struct {
    mambino_rows y;      /* comes in */
    mambino_rows x;      /* goes out */
    void *weight, *bias; /* go out */
} mambino_norm_gradients;

/* y = ((x + scale add) - mean) / sqrt(variance + eps) * weight + bias, times silu(gate); mean and variance of each token
 * over its channels. */
typedef struct {
    int64_t batch, length, channels;
    double eps;
    mambino_rows x, add, gate, y; /* add and gate may be missing */
    const void *weight, *bias;    /* [channels] */
    const void *scale;            /* one number, or null: 1 */
} mambino_layer_norm;

/* The most neighbours that a convolution along all axes may see. */
#define MAMBINO_TAPS 343

/* y = act(bias + sum over neighbours of weight x), each channel by itself, over a grid with zeros round it. Tokens lie
 * row by row; a grid of two axes has a first side of 1. */
typedef struct {
    int64_t batch, channels;
    int64_t sides[3], kernel[3]; /* kernel: odd */
    int32_t silu;
    mambino_rows x, y;
    const void *weight, *bias; /* [neighbours, channels], [channels] or null */
} mambino_grid_conv;

MAMBINO_API int mambino_layer_norm_forward(const mambino_layer_norm *norm, int bytes, int threads);
MAMBINO_API int mambino_grid_conv_forward(const mambino_grid_conv *conv, int bytes, int threads);
MAMBINO_API int mambino_scan_forward(const mambino_scan *scan, int bytes, int threads);
/* Several scans of one batch, channels and groups, one after the other; they may add into the same y. */
MAMBINO_API int mambino_scans_forward(const mambino_scan *scans, int count, int bytes, int threads);
MAMBINO_API int mambino_scan_backward(const mambino_scan *scan, const mambino_scan_gradients *gradients, int bytes,
                                      int threads);
MAMBINO_API int mambino_conv_forward(const mambino_conv *conv, int bytes, int threads);
MAMBINO_API int mambino_conv_backward(const mambino_conv *conv, const mambino_conv_gradients *gradients, int bytes,
                                      int threads);
MAMBINO_API int mambino_norm_forward(const mambino_norm *norm, int bytes, int threads);
MAMBINO_API int mambino_norm_backward(const mambino_norm *norm, const mambino_norm_gradients *gradients, int bytes,
                                      int threads);

/* Calls body(context) on each of so many threads, the calling one among them, and returns when all have: what OpenMP's
 * runtimes have under the name GOMP_parallel. */
typedef void (*mambino_team)(void (*body)(void *), void *context, unsigned threads, unsigned flags);
/* From now on, work on the threads of such a team in this process; null: on threads of the library's own again. */
MAMBINO_API void mambino_use_team(mambino_team team);

/* Vector multiply-adds a second that one thread issues here, measured: the limit that benchmarks compare with. */
MAMBINO_API double mambino_issue_rate(int bytes);

/* The instruction set in use: "avx512", "avx2", "neon" or "plain". */
MAMBINO_API const char *mambino_isa(void);
/* Take another one that this build and processor have; MAMBINO_BAD_ARGUMENT if they do not. */
MAMBINO_API int mambino_set_isa(const char *name);
/* Those that this build has and this processor runs, best first, separated by spaces. */
MAMBINO_API const char *mambino_isas(void);
/* What the last call of this thread that failed was about. */
MAMBINO_API const char *mambino_message(void);

#ifdef __cplusplus
}
#endif
#endif
