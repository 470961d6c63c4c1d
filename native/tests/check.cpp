// The library through its own interface, without Python: for sanitizers, and for processors that are emulated.
//
// In float64 a scan equals its definition, and its gradients the differences of slightly changed inputs; in float32
// both equal those in float64. Every instruction set that runs here is checked; wrong calls are refused.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "mambino/scan.h"

namespace {

int failures = 0;

void expect(bool holds, const std::string &what) {
    if (holds) return;
    failures++;
    printf("FAILED: %s [%s]\n", what.c_str(), mambino_isa());
}

// The same numbers everywhere.
struct Random {
    uint64_t state = 1;
    double next() {
        state = state * 6364136223846793005ULL + 1442695040888963407ULL;
        return double(state >> 11) / double(uint64_t(1) << 52) - 1.0;  // -1 to 1
    }
};

struct Shape {
    int64_t batch, length, channels, states, groups, rank;
    bool full;  // D, bias, gate, first state, an order
};

// All inputs of a scan in one vector, so that a step in any direction is a sum.
template <class T> struct Case {
    Shape s;
    std::vector<int64_t> at;  // where each input begins
    std::vector<T> values;
    std::vector<int32_t> order;  // a permutation unless 13 divides the length
    enum { U, DELTA, A, B, C, W, D, BIAS, Z, STATE, COUNT };

    explicit Case(const Shape &shape) : s(shape) {
        const int64_t tokens = s.batch * s.length, wide = s.rank ? s.rank : s.channels;
        const int64_t sizes[COUNT] = {tokens * s.channels, tokens * wide, s.channels * s.states, tokens * s.groups * s.states,
                                      tokens * s.groups * s.states, s.channels * s.rank, s.channels, s.channels,
                                      tokens * s.channels, s.batch * s.channels * s.states};
        int64_t end = 0;
        for (int64_t size : sizes) at.push_back(end), end += size;
        at.push_back(end);
        values.resize(size_t(end));
        Random random;
        for (T &x : values) x = T(random.next());
        for (int64_t i = at[A]; i < at[A + 1]; i++) values[size_t(i)] = -std::fabs(values[size_t(i)]) - T(0.1);
        for (int64_t t = 0; t < s.length; t++) order.push_back(int32_t((t * 13 + 3) % s.length));
    }

    T *part(std::vector<T> &of, int what) const { return of.data() + at[size_t(what)]; }

    mambino_rows rows(std::vector<T> &of, int what, int64_t wide) const {
        return {part(of, what), s.length * wide, wide, what == B || what == C ? s.states : 0};
    }

    mambino_scan call(std::vector<T> &y, std::vector<T> &last, std::vector<T> &saved) {
        mambino_scan c{};
        c.batch = s.batch, c.length = s.length, c.channels = s.channels, c.states = s.states;
        c.groups = s.groups, c.rank = s.rank, c.softplus = 1;
        c.u = rows(values, U, s.channels);
        c.delta = rows(values, DELTA, s.rank ? s.rank : s.channels);
        c.B = rows(values, B, s.groups * s.states), c.C = rows(values, C, s.groups * s.states);
        c.A = part(values, A), c.W = part(values, W);
        if (s.full) {
            c.D = part(values, D), c.bias = part(values, BIAS), c.state = part(values, STATE);
            c.z = rows(values, Z, s.channels);
            c.order = order.data();
        }
        y.assign(size_t(s.batch * s.length * s.channels), T(7));
        last.assign(size_t(s.batch * s.channels * s.states), T(7));
        saved.assign(size_t(s.batch * ((s.length + MAMBINO_CHUNK - 1) / MAMBINO_CHUNK) * s.states * s.channels), T(7));
        c.y = {y.data(), s.length * s.channels, s.channels, 0};
        c.last = last.data(), c.saved = saved.data();
        return c;
    }
};

template <class T> std::vector<T> weights(size_t count) {
    Random random;
    random.state = 99;
    std::vector<T> w(count);
    for (T &x : w) x = T(random.next());
    return w;
}

// What gradients are taken of: a weighted sum of all outputs.
template <class T> double objective(Case<T> &c, int threads) {
    std::vector<T> y, last, saved;
    const mambino_scan call = c.call(y, last, saved);
    expect(mambino_scan_forward(&call, sizeof(T), threads) == MAMBINO_OK, mambino_message());
    const std::vector<T> w = weights<T>(y.size() + last.size());
    double sum = 0;
    for (size_t i = 0; i < y.size(); i++) sum += double(y[i]) * double(w[i]);
    for (size_t i = 0; i < last.size(); i++) sum += double(last[i]) * double(w[y.size() + i]);
    return sum;
}

template <class T> std::vector<T> gradient(Case<T> &c, int threads) {
    std::vector<T> y, last, saved, grad(c.values.size(), T(0));
    const mambino_scan call = c.call(y, last, saved);
    expect(mambino_scan_forward(&call, sizeof(T), threads) == MAMBINO_OK, mambino_message());
    std::vector<T> w = weights<T>(y.size() + last.size());
    mambino_scan_gradients g{};
    g.y = {w.data(), c.s.length * c.s.channels, c.s.channels, 0};
    g.last = w.data() + y.size();
    g.u = c.rows(grad, Case<T>::U, c.s.channels);
    g.delta = c.rows(grad, Case<T>::DELTA, c.s.rank ? c.s.rank : c.s.channels);
    g.B = c.rows(grad, Case<T>::B, c.s.groups * c.s.states), g.C = c.rows(grad, Case<T>::C, c.s.groups * c.s.states);
    g.z = c.rows(grad, Case<T>::Z, c.s.channels);
    g.A = c.part(grad, Case<T>::A), g.W = c.part(grad, Case<T>::W);
    if (c.s.full) g.D = c.part(grad, Case<T>::D), g.bias = c.part(grad, Case<T>::BIAS), g.state = c.part(grad, Case<T>::STATE);
    expect(mambino_scan_backward(&call, &g, sizeof(T), threads) == MAMBINO_OK, mambino_message());
    return grad;
}

double softplus(double x) { return x > 0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x)); }

// The definition, in the plainest words.
std::vector<double> defined(Case<double> &c) {
    const Shape &s = c.s;
    std::vector<double> y(size_t(s.batch * s.length * s.channels));
    const auto value = [&](int what, int64_t i) { return c.values[size_t(c.at[size_t(what)] + i)]; };
    for (int64_t b = 0; b < s.batch; b++)
        for (int64_t d = 0; d < s.channels; d++) {
            const int64_t group = d / (s.channels / s.groups);
            std::vector<double> h(size_t(s.states), 0.0);
            for (int64_t n = 0; n < s.states && s.full; n++) h[size_t(n)] = value(Case<double>::STATE, (b * s.channels + d) * s.states + n);
            for (int64_t t = 0; t < s.length; t++) {
                const int64_t token = b * s.length + (s.full ? c.order[size_t(t)] : t);
                double raw = s.full ? value(Case<double>::BIAS, d) : 0.0;
                if (!s.rank) raw += value(Case<double>::DELTA, token * s.channels + d);
                for (int64_t r = 0; r < s.rank; r++)
                    raw += value(Case<double>::DELTA, token * s.rank + r) * value(Case<double>::W, d * s.rank + r);
                const double step = softplus(raw), u = value(Case<double>::U, token * s.channels + d);
                double out = s.full ? value(Case<double>::D, d) * u : 0.0;
                for (int64_t n = 0; n < s.states; n++) {
                    const int64_t place = (token * s.groups + group) * s.states + n;
                    double &state = h[size_t(n)];
                    state = std::exp(step * value(Case<double>::A, d * s.states + n)) * state + step * value(Case<double>::B, place) * u;
                    out += value(Case<double>::C, place) * state;
                }
                const double z = s.full ? value(Case<double>::Z, token * s.channels + d) : 0.0;
                y[size_t(token * s.channels + d)] = s.full ? out * z / (1 + std::exp(-z)) : out;
            }
        }
    return y;
}

template <class X, class Y> double apart(const std::vector<X> &a, const std::vector<Y> &b) {
    double most = 0, scale = 1e-30;
    for (size_t i = 0; i < a.size(); i++) {
        most = std::fmax(most, std::fabs(double(a[i]) - double(b[i])));
        scale = std::fmax(scale, std::fabs(double(b[i])));
    }
    return most / scale;
}

void check_scan(const Shape &shape, const std::string &name) {
    Case<double> exact(shape);
    std::vector<double> y, last, saved;
    const mambino_scan call = exact.call(y, last, saved);
    expect(mambino_scan_forward(&call, 8, 2) == MAMBINO_OK, mambino_message());
    expect(apart(y, defined(exact)) < 1e-13, name + ": float64 equals the definition");

    const std::vector<double> grad = gradient(exact, 2);
    for (int what = 0; what < Case<double>::COUNT; what++) {
        Random random;
        random.state = uint64_t(what) + 5;
        std::vector<double> direction(exact.values.size(), 0.0);
        double along = 0;
        for (int64_t i = exact.at[size_t(what)]; i < exact.at[size_t(what) + 1]; i++) {
            direction[size_t(i)] = random.next();
            along += direction[size_t(i)] * grad[size_t(i)];
        }
        const double step = 1e-6;
        Case<double> ahead = exact, behind = exact;
        for (size_t i = 0; i < direction.size(); i++) ahead.values[i] += step * direction[i], behind.values[i] -= step * direction[i];
        const double difference = (objective(ahead, 1) - objective(behind, 1)) / (2 * step);
        expect(std::fabs(along - difference) < 1e-6 * (1 + std::fabs(difference)), name + ": gradient of input " + std::to_string(what));
    }
    for (int threads = 1; threads < 4; threads++) {
        Case<float> single(shape);
        std::vector<float> rounded, end, kept;
        const mambino_scan small = single.call(rounded, end, kept);
        expect(mambino_scan_forward(&small, 4, threads) == MAMBINO_OK, mambino_message());
        expect(apart(rounded, y) < 3e-6, name + ": float32 equals float64");
        expect(apart(gradient(single, threads), grad) < 5e-6, name + ": gradients in float32 equal those in float64");
    }
}

void check_refusals() {
    Case<float> c({1, 5, 4, 2, 1, 0, false});
    std::vector<float> y, last, saved;
    mambino_scan call = c.call(y, last, saved);
    expect(mambino_scan_forward(&call, 2, 1) == MAMBINO_BAD_TYPE, "numbers of two bytes are refused");
    call.groups = 3;
    expect(mambino_scan_forward(&call, 4, 1) == MAMBINO_BAD_ARGUMENT, "groups that do not divide are refused");
    expect(strstr(mambino_message(), "groups must divide the channels, got 3") != nullptr, "and said");
    call = c.call(y, last, saved);
    call.A = nullptr;
    expect(mambino_scan_forward(&call, 4, 1) == MAMBINO_BAD_ARGUMENT, "a missing input is refused");
    expect(mambino_scan_forward(nullptr, 4, 1) == MAMBINO_BAD_ARGUMENT, "no call at all is refused");
    expect(mambino_set_isa("mmx") == MAMBINO_BAD_ARGUMENT, "an unknown instruction set is refused");
}

void check_norm_and_conv() {
    const int64_t length = 5000, channels = 20;
    std::vector<float> x(size_t(length * channels)), y(x.size()), gx(x.size()), mean(4), scale(4), weight(channels, 1.0f), bias(channels, 0.0f);
    std::vector<float> gw(size_t(channels) * 4), gb(channels), taps(size_t(channels) * 4, 0.25f);
    Random random;
    for (float &v : x) v = float(random.next()) + 3;
    mambino_norm norm{1, length, channels, 4, 1e-5, 0, {x.data(), 0, channels, 0}, {y.data(), 0, channels, 0}, weight.data(), bias.data(), mean.data(), scale.data()};
    expect(mambino_norm_forward(&norm, 4, 2) == MAMBINO_OK, mambino_message());
    double sum = 0, squares = 0;
    for (float v : y) sum += double(v), squares += double(v) * double(v);
    expect(std::fabs(sum / double(y.size())) < 1e-6 && std::fabs(squares / double(y.size()) - 1) < 1e-3, "a normalised sequence has mean 0 and variance 1");
    mambino_norm_gradients back{{y.data(), 0, channels, 0}, {gx.data(), 0, channels, 0}, gw.data(), gb.data()};
    expect(mambino_norm_backward(&norm, &back, 4, 2) == MAMBINO_OK, mambino_message());
    mambino_conv conv{1, length, channels, 4, 0, {x.data(), 0, channels, 0}, {y.data(), 0, channels, 0}, taps.data(), bias.data(), nullptr};
    expect(mambino_conv_forward(&conv, 4, 2) == MAMBINO_OK, mambino_message());
    bool equal = true;
    for (int64_t t = 3; t < length; t++) {
        float expected = 0;
        for (int64_t k = 0; k < 4; k++) expected += 0.25f * x[size_t((t - k) * channels + 7)];
        equal = equal && std::fabs(expected - y[size_t(t * channels + 7)]) < 1e-5f;
    }
    expect(equal, "a convolution with equal weights is a mean");
    mambino_conv_gradients outer{{y.data(), 0, channels, 0}, {gx.data(), 0, channels, 0}, gw.data(), gb.data()};
    expect(mambino_conv_backward(&conv, &outer, 4, 2) == MAMBINO_OK, mambino_message());
}

// Those that only go forward: both leave equal numbers what they should.
void check_tokens() {
    const int64_t sides[3] = {3, 5, 7}, tokens = 3 * 5 * 7, channels = 75;
    std::vector<float> x(size_t(tokens * channels)), y(x.size()), gate(x.size(), 0.5f), weight(channels, 2.0f), bias(channels, 1.0f);
    Random random;
    for (float &v : x) v = float(random.next()) + 3;
    const mambino_rows from{x.data(), 0, channels, 0}, to{y.data(), 0, channels, 0};
    const float scale = 0.5f;
    mambino_layer_norm norm{1, tokens, channels, 1e-5, from, from, {gate.data(), 0, channels, 0}, to, weight.data(), bias.data(), &scale};
    expect(mambino_layer_norm_forward(&norm, 4, 2) == MAMBINO_OK, mambino_message());
    double worst = 0;
    const double silu = 0.5 / (1 + std::exp(-0.5));
    for (int64_t t = 0; t < tokens; t++) {
        double sum = 0;
        for (int64_t c = 0; c < channels; c++) sum += double(y[size_t(t * channels + c)]) / silu;
        worst = std::max(worst, std::fabs(sum / double(channels) - 1));
    }
    expect(worst < 1e-5, "a normalised token has the mean of the bias, times the gate");
    std::vector<float> taps(size_t(27 * channels), 1.0f), ones(x.size(), 1.0f);
    mambino_grid_conv conv{1, channels, {sides[0], sides[1], sides[2]}, {3, 3, 3}, 0, {ones.data(), 0, channels, 0}, to, taps.data(), bias.data()};
    expect(mambino_grid_conv_forward(&conv, 4, 2) == MAMBINO_OK, mambino_message());
    bool equal = true;
    for (int64_t t = 0; t < tokens; t++) {
        const int64_t at[3] = {t / 35, t / 7 % 5, t % 7};
        float count = 1;
        for (int axis = 0; axis < 3; axis++) count *= float(3 - (at[axis] == 0) - (at[axis] == sides[axis] - 1));
        for (int64_t c = 0; c < channels; c++) equal = equal && y[size_t(t * channels + c)] == count + 1;
    }
    expect(equal, "equal weights count the neighbours inside the grid");
    conv.kernel[2] = 2;
    expect(mambino_grid_conv_forward(&conv, 4, 2) == MAMBINO_BAD_ARGUMENT, "an even kernel is refused");
}

// A team as OpenMP's runtimes have it.
std::atomic<int> lent{0};

void team(void (*body)(void *), void *context, unsigned threads, unsigned) {
    std::vector<std::thread> others;
    for (unsigned i = 1; i < threads; i++) others.emplace_back(body, context);
    body(context);
    for (std::thread &other : others) other.join();
    lent += int(threads);
}

}  // namespace

int main() {
    std::string names = mambino_isas();
    for (size_t begin = 0; begin < names.size();) {
        const size_t end = std::min(names.find(' ', begin), names.size());
        const std::string isa = names.substr(begin, end - begin);
        mambino_set_isa(isa.c_str());
        check_scan({2, 70, 24, 16, 1, 0, true}, "many states");
        check_scan({1, 133, 40, 19, 2, 3, true}, "groups, odd sizes, a product for the step");
        check_scan({1, 33, 6, 1, 1, 0, false}, "one state");
        check_scan({3, 5, 8, 4, 1, 1, false}, "short");
        check_scan({1, 70, 7, 16, 1, 2, true}, "few channels");
        check_scan({2, 40, 6, 4, 2, 0, true}, "few channels in groups");
        check_scan({1, 70, 13, 7, 1, 2, true}, "one block of channels");
        check_norm_and_conv();
        check_tokens();
        mambino_use_team(team);
        lent = 0;
        check_scan({2, 70, 24, 16, 1, 0, true}, "on a team");
        expect(lent > 1, "a team that is lent does the work");
        mambino_use_team(nullptr);
        check_refusals();
        printf("%s: checked\n", isa.c_str());
        begin = end + 1;
    }
    printf("%d failures\n", failures);
    return failures ? 1 : 0;
}
