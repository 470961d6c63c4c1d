// Arguments are looked at once, at the door; what cannot be is said with its value.
#pragma once

#include <limits.h>
#include <stdio.h>

#include "mambino/scan.h"

namespace mambino {

inline thread_local char message[200] = "";

// An argument that cannot be; `what` says which, `value` what it was.
struct Refused {
    int status;
};

inline void require(bool fits, const char *what, int64_t value) {
    if (fits) return;
    snprintf(message, sizeof message, "%s, got %lld", what, (long long)value);
    throw Refused{MAMBINO_BAD_ARGUMENT};
}

constexpr int64_t MOST = int64_t(1) << 40;  // of any size: products of a few stay far from overflow where it matters

inline void require_size(const char *what, int64_t value, int64_t least) { require(value >= least && value < MOST, what, value); }

inline void require_rows(const mambino_rows &rows, const char *what) {
    require(rows.data != nullptr, what, 0);
    require(rows.batch > -MOST && rows.batch < MOST, "distance between samples", rows.batch);
    require(rows.token > -MOST && rows.token < MOST, "distance between tokens", rows.token);
}

inline void check(const mambino_scan &s) {
    require_size("batch must be at least 1", s.batch, 1);
    require_size("length must be at least 1", s.length, 1);
    require_size("channels must be at least 1", s.channels, 1);
    require(s.states >= 1 && s.states <= 4096, "states must be 1 to 4096", s.states);
    require(s.groups >= 1 && s.groups <= s.channels && s.channels % s.groups == 0, "groups must divide the channels", s.groups);
    require(s.rank >= 0 && s.rank <= 4096, "rank must be 0 to 4096", s.rank);
    require_rows(s.u, "u is missing");
    require_rows(s.delta, "delta is missing");
    require_rows(s.y, "y is missing");
    require(s.A != nullptr, "A is missing", 0);
    require(!s.rank || s.W, "W is missing where rank is", s.rank);
    s.constant_B ? require(s.B.data, "B is missing", 0) : require_rows(s.B, "B is missing");
    s.constant_C ? require(s.C.data, "C is missing", 0) : require_rows(s.C, "C is missing");
    if (s.z.data) require_rows(s.z, "z is missing");
    require(s.length < INT_MAX || !s.order, "with an order, length must be below 2^31", s.length);
    for (int64_t t = 0; s.order && t < s.length; t++)
        require(s.order[t] >= 0 && s.order[t] < s.length, "the order must name tokens of the sequence", s.order[t]);
}

inline void check(const mambino_scan &s, const mambino_scan_gradients &g) {
    require(s.saved != nullptr, "saved states are missing", 0);
    require_rows(g.y, "the gradient of y is missing");
    require_rows(g.u, "room for the gradient of u is missing");
    require_rows(g.delta, "room for the gradient of delta is missing");
    s.constant_B ? require(g.B.data, "room for the gradient of B is missing", 0)
                 : require_rows(g.B, "room for the gradient of B is missing");
    s.constant_C ? require(g.C.data, "room for the gradient of C is missing", 0)
                 : require_rows(g.C, "room for the gradient of C is missing");
    if (s.z.data) require_rows(g.z, "room for the gradient of z is missing");
    require(!s.rank || g.W, "room for the gradient of W is missing where rank is", s.rank);
    require(g.A != nullptr, "room for the gradient of A is missing", 0);
}

inline void check(const mambino_conv &c) {
    require_size("batch must be at least 1", c.batch, 1);
    require_size("length must be at least 1", c.length, 1);
    require_size("channels must be at least 1", c.channels, 1);
    require(c.kernel >= 1 && c.kernel <= 64, "kernel must be 1 to 64", c.kernel);
    require_rows(c.x, "x is missing");
    require_rows(c.y, "y is missing");
    require(c.weight != nullptr, "the weight is missing", 0);
}

inline void check(const mambino_norm &n) {
    require_size("batch must be at least 1", n.batch, 1);
    require_size("length must be at least 1", n.length, 1);
    require_size("channels must be at least 1", n.channels, 1);
    require(n.groups >= 1 && n.groups <= n.channels && n.channels % n.groups == 0, "groups must divide the channels", n.groups);
    require_rows(n.x, "x is missing");
    require_rows(n.y, "y is missing");
    require(n.mean && n.scale, "room for mean and scale is missing", 0);
}

inline void check(const mambino_layer_norm &n) {
    require_size("batch must be at least 1", n.batch, 1);
    require_size("length must be at least 1", n.length, 1);
    require_size("channels must be at least 1", n.channels, 1);
    require_rows(n.x, "x is missing");
    require_rows(n.y, "y is missing");
    if (n.add.data) require_rows(n.add, "add is missing");
    if (n.gate.data) require_rows(n.gate, "gate is missing");
    require(n.weight && n.bias, "weight or bias is missing", 0);
}

inline void check(const mambino_grid_conv &c) {
    require_size("batch must be at least 1", c.batch, 1);
    require_size("channels must be at least 1", c.channels, 1);
    int64_t tokens = 1, taps = 1;
    for (int axis = 0; axis < 3; axis++) {
        require(c.sides[axis] >= 1 && c.sides[axis] < MOST / tokens, "sides must be at least 1", c.sides[axis]);
        require(c.kernel[axis] >= 1 && c.kernel[axis] % 2 && c.kernel[axis] <= MAMBINO_TAPS / taps, "the kernel must be odd, and not large",
                c.kernel[axis]);
        tokens *= c.sides[axis], taps *= c.kernel[axis];
    }
    require_rows(c.x, "x is missing");
    require_rows(c.y, "y is missing");
    require(c.weight != nullptr, "the weight is missing", 0);
}

}  // namespace mambino
