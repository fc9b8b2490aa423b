// Runs a kernel of attention that CubeCL wrote as CUDA, in bf16 on the host, and compares with loops in f64.
// Macros from attention.py: SOURCE, CALL, KERNEL ('f'orward, 'q'ueries, 'k'eys), HEAD_DIM, ROWS, COLS, UNITS, FIRST, PREFIX, OFFSET, WINDOW.
#include <barrier>
#include <climits>
#include <cmath>
#include <cstdio>
#include <random>
#include <thread>
#include <vector>

struct Index {
    unsigned x, y, z;
};
static thread_local Index threadIdx, blockIdx;
static Index gridDim{1, 1, 1};
static std::barrier<> everybody(UNITS);
static std::vector<std::barrier<> *> warps;
void warp_barrier() { warps[threadIdx.y]->arrive_and_wait(); }
static void __syncthreads() { everybody.arrive_and_wait(); }
template <class T> T min(T a, T b) { return a < b ? a : b; }
template <class T> T max(T a, T b) { return a > b ? a : b; }
using std::exp, std::log;
#define __device__
#define __global__
#define __launch_bounds__(n)
#define __grid_constant__
#define __restrict__
alignas(256) static char SHARED[256 << 10];
#include SOURCE

using Half = __nv_bfloat16;
using Packed = __nv_bfloat16_8;

static const int b = 2, s = 75, hq = 4, hkv = 2, d = HEAD_DIM, t = PREFIX + OFFSET + s;

static std::vector<Half> drawn(size_t n) {
    static std::mt19937 generator(7);
    std::uniform_real_distribution<float> uniform(-1, 1);
    std::vector<Half> values(n);
    for (auto &x : values)
        x = Half(uniform(generator));
    return values;
}

// The largest error beside 1 and the value.
template <class T> static double worst(const std::vector<T> &got, const std::vector<double> &want) {
    double most = 0;
    for (size_t i = 0; i < want.size(); i++) {
        double error = std::fabs(float(got[i]) - want[i]) / max(1.0, std::fabs(want[i]));
        most = error <= most ? most : error; // NaN stays
    }
    return most;
}

int main() {
    auto q = drawn(b * s * hq * d), k = drawn(b * t * hkv * d), v = drawn(b * t * hkv * d), dout = drawn(q.size());
    std::vector<int> first(b * s);
    if (FIRST) // documents of 29, behind padding that grows with the row
        for (int i = 0; i < b * s; i++)
            first[i] = (OFFSET + i % s) / 29 * 29 + i / s + 1;
    const float scale = 1 / std::sqrt(float(d));

    std::vector<double> out(q.size()), dq(q.size()), dk(k.size()), dv(k.size()), lse(b * s * hq);
    std::vector<float> rows(2 * lse.size());
    for (size_t row = 0; row < lse.size(); row++) {
        int head = row % hq, i = row / hq % s, batch = row / hq / s;
        auto key = [&](int j) { return ((batch * t + j) * hkv + head / (hq / hkv)) * d; };
        int low = max(WINDOW == INT_MAX ? 0 : i + OFFSET + 1 - WINDOW, first[batch * s + i]);
        auto sees = [&](int j) { return j < PREFIX || (j - PREFIX >= low && j - PREFIX <= OFFSET + i); };
        auto dot = [&](const std::vector<Half> &x, const std::vector<Half> &y, int at) {
            double sum = 0;
            for (int c = 0; c < d; c++)
                sum += double(float(x[row * d + c])) * float(y[at + c]);
            return sum;
        };
        double sum = 0;
        for (int j = 0; j < t; j++)
            sum += sees(j) ? std::exp(scale * dot(q, k, key(j))) : 0;
        lse[row] = sum > 0 ? std::log(sum) : 0;
        std::vector<double> p(t);
        for (int j = 0; j < t; j++) {
            p[j] = sees(j) ? std::exp(scale * dot(q, k, key(j)) - lse[row]) : 0;
            for (int c = 0; c < d; c++)
                out[row * d + c] += p[j] * float(v[key(j) + c]);
        }
        double along = 0;
        for (int c = 0; c < d; c++)
            along += out[row * d + c] * float(dout[row * d + c]);
        rows[2 * row] = lse[row], rows[2 * row + 1] = along;
        for (int j = 0; j < t; j++) {
            double ds = scale * p[j] * (dot(dout, v, key(j)) - along);
            for (int c = 0; c < d; c++) {
                dq[row * d + c] += ds * float(k[key(j) + c]);
                dk[key(j) + c] += ds * float(q[row * d + c]);
                dv[key(j) + c] += p[j] * float(dout[row * d + c]);
            }
        }
    }

    info_st info{};
    unsigned *to = info.scalars_usize;
    for (int heads : {s * hq, hq, 1, t * hkv, hkv, 1, t * hkv, hkv, 1}) // strides of q, k and v
        *to++ = heads * d / 8;
    *to++ = s;
    if (KERNEL == 'k')
        *to++ = t;
    const unsigned pairs = b * (KERNEL == 'k' ? hkv : hq);
    *to++ = pairs, *to++ = hq, *to++ = hq / hkv;
    info.scalars_f32[0] = scale;
    info.scalars_i32[0] = PREFIX, info.scalars_i32[1] = OFFSET, info.scalars_i32[2] = WINDOW;

    const Half unwritten(77.f);
    std::vector<Half> one(max(q.size(), k.size()), unwritten), two(k.size(), unwritten);
    std::vector<float> logs(lse.size(), 77);
    auto packed = [](std::vector<Half> &x) { return reinterpret_cast<Packed *>(x.data()); };
    // Two blocks more than there are tiles: they have to end at once.
    gridDim.x = (KERNEL == 'k' ? (t + COLS - 1) / COLS : (s + ROWS - 1) / ROWS) * pairs + 2;
    for (int i = 0; i < UNITS / 32; i++)
        warps.push_back(new std::barrier<>(32));
    std::vector<std::thread> units;
    for (unsigned unit = 0; unit < UNITS; unit++)
        units.emplace_back([&, unit] {
            threadIdx = {unit % 32, unit / 32, 0};
            for (unsigned block = 0; block < gridDim.x; block++) {
                blockIdx = {block, 0, 0};
                __syncthreads();
                CALL;
                __syncthreads();
            }
        });
    for (auto &unit : units)
        unit.join();

    const double rounding = 1.0 / 128; // of bf16, twice
    double errors[2] = {KERNEL == 'f' ? worst(one, out) : worst(one, KERNEL == 'k' ? dk : dq),
                        KERNEL == 'f' ? worst(logs, lse) : KERNEL == 'k' ? worst(two, dv) : 0};
    printf("%.2e %.2e", errors[0], errors[1]);
    return !(errors[0] <= rounding && errors[1] <= (KERNEL == 'f' ? 1e-5 : rounding));
}
