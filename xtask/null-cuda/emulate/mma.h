// What CubeCL's sources use of <mma.h>, on the host: every thread of a warp holds and multiplies whole tiles of 16 by 16.
#pragma once
#include "cuda_bf16.h"
#include <stdexcept>

// All threads of a warp have come here.
void warp_barrier();

namespace nvcuda::wmma {
struct matrix_a;
struct matrix_b;
struct accumulator;
struct row_major {
    static constexpr bool by_rows = true;
};
struct col_major {
    static constexpr bool by_rows = false;
};
enum layout_t { mem_row_major, mem_col_major };

template <class Use, int M, int N, int K, class T, class Layout = void> struct fragment {
    static_assert(M == 16 && N == 16 && K == 16);
    float at[16][16];
};

// What the hardware asks of pointers and of distances between rows.
template <class T> void check(const T *p, unsigned stride) {
    if (reinterpret_cast<size_t>(p) % 32 != 0 || stride * sizeof(T) % 16 != 0)
        throw std::runtime_error("a tile is not aligned");
}

template <class Use, class T, class Layout>
void load_matrix_sync(fragment<Use, 16, 16, 16, T, Layout> &to, const T *p, unsigned stride) {
    check(p, stride);
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 16; j++)
            to.at[i][j] = float(Layout::by_rows ? p[i * stride + j] : p[j * stride + i]);
}

template <class T>
void load_matrix_sync(fragment<accumulator, 16, 16, 16, T> &to, const T *p, unsigned stride, layout_t layout) {
    check(p, stride);
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 16; j++)
            to.at[i][j] = layout == mem_row_major ? p[i * stride + j] : p[j * stride + i];
}

template <class T>
void store_matrix_sync(T *p, const fragment<accumulator, 16, 16, 16, T> &from, unsigned stride, layout_t layout) {
    check(p, stride);
    warp_barrier(); // Others may still load what is overwritten here.
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 16; j++)
            (layout == mem_row_major ? p[i * stride + j] : p[j * stride + i]) = from.at[i][j];
}

template <class T> void fill_fragment(fragment<accumulator, 16, 16, 16, T> &to, float value) {
    for (auto &row : to.at)
        for (auto &x : row)
            x = value;
}

template <class T, class A, class LayoutA, class LayoutB>
void mma_sync(fragment<accumulator, 16, 16, 16, T> &d, const fragment<matrix_a, 16, 16, 16, A, LayoutA> &a,
              const fragment<matrix_b, 16, 16, 16, A, LayoutB> &b, const fragment<accumulator, 16, 16, 16, T> &c) {
    auto sum = c;
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 16; j++)
            for (int k = 0; k < 16; k++)
                sum.at[i][j] += a.at[i][k] * b.at[k][j];
    d = sum;
}
} // namespace nvcuda::wmma
