//! Register tiles: `MR x NR` blocks of C kept in vector registers while `A` and `B` panels stream by.
//!
//! ```text
//!            B panel [kc][NR]        per step of k: 2 vector loads of B, MR broadcasts of A,
//!          +----------------+        2·MR fused multiply-adds
//!  A panel |                |
//!  [kc][MR]|   C  MR x NR   |
//! ```
//! The loop is assembly because the compiler spills accumulators of tiles this large (a third of the rate).
use crate::cpu::isa::Isa;
use std::arch::{asm, x86_64::*};

/// `c (+)= a · b` for one tile: `a` packed `[kc][height of the kernel]`, `b` rows of the tile's width every `ldb` values.
type Kernel = unsafe fn(kc: usize, a: *const f32, b: *const f32, ldb: usize, c: Out);

/// Where a tile goes: row stride, how much of it is real, and whether it is added to what is there.
#[derive(Clone, Copy)]
pub(crate) struct Out {
    pub(crate) ptr: *mut f32,
    pub(crate) stride: usize,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) add: bool,
}

/// The register tile of an instruction set.
pub(crate) struct Tile {
    /// Rows of a full tile.
    pub(crate) mr: usize,
    /// Columns.
    pub(crate) nr: usize,
    /// (rows, kernel), ascending: the last rows of a matrix use the smallest that holds them.
    kernels: [(usize, Kernel); 3],
}

static AVX512: Tile = Tile {
    mr: 12,
    nr: 32,
    kernels: [(4, avx512_4), (8, avx512_8), (12, avx512_12)],
};
static AVX2: Tile = Tile {
    mr: 6,
    nr: 16,
    kernels: [(2, avx2_2), (4, avx2_4), (6, avx2_6)],
};

impl Tile {
    /// The tile for this machine; `None` without AVX2.
    pub(crate) fn detect() -> Option<&'static Tile> {
        Self::of(Isa::detect())
    }

    /// The tile of `isa`.
    pub(crate) fn of(isa: Isa) -> Option<&'static Tile> {
        match isa {
            Isa::Avx512 => Some(&AVX512),
            Isa::Avx2 => Some(&AVX2),
            Isa::Base => None,
        }
    }

    /// Height of the kernel that computes `rows` (at most `mr`) rows: the stride of k in a packed panel of A.
    pub(crate) fn height(&self, rows: usize) -> usize {
        self.pick(rows).0
    }

    fn pick(&self, rows: usize) -> (usize, Kernel) {
        debug_assert!(rows <= self.mr);
        *self.kernels.iter().find(|k| k.0 >= rows).unwrap_or(&self.kernels[2])
    }

    /// Computes one tile.
    ///
    /// # Safety
    /// The machine has the tile's instruction set; `a` is a packed panel of `kc` steps of [`Tile::height`]`(c.rows)`
    /// values; `b` has `kc` rows of `nr` readable values, `ldb` apart; `c` is writable (and readable if `c.add`) for
    /// `rows` rows of `cols` values, `stride` apart, and no one else uses it.
    pub(crate) unsafe fn run(&self, kc: usize, a: *const f32, b: *const f32, ldb: usize, c: Out) {
        debug_assert!(kc > 0 && c.cols <= self.nr);
        // SAFETY: the caller's promise.
        unsafe { self.pick(c.rows).1(kc, a, b, ldb, c) }
    }
}

/// Adds or copies the real part of a tile that sticks out of C.
///
/// # Safety
/// As for `c` in [`Tile::run`]; `tile` holds rows of `width >= c.cols` values.
unsafe fn store_edge(tile: &[f32], width: usize, c: Out) {
    for (r, row) in tile.chunks_exact(width).take(c.rows).enumerate() {
        // SAFETY: row r of C is inside C.
        let out = unsafe { std::slice::from_raw_parts_mut(c.ptr.add(r * c.stride), c.cols) };
        if c.add {
            out.iter_mut().zip(row).for_each(|(o, x)| *o += x);
        } else {
            out.copy_from_slice(&row[..c.cols]);
        }
    }
}

/// One kernel. `rows` lists (row, byte offset in A's step, broadcast register, two accumulators).
macro_rules! kernel {
    ($name:ident, $feature:tt, $mr:tt, $lanes:tt, $vec:ident, $zero:ident, $load:ident, $store:ident, $add:ident,
     [$b0:tt, $b1:tt, $t0:tt, $t1:tt, $xor:tt, $bytes:tt], $(($r:tt, $offset:tt, $t:tt, $x:tt, $y:tt)),*) => {
        #[target_feature(enable = $feature)]
        unsafe fn $name(kc: usize, a: *const f32, b: *const f32, ldb: usize, c: Out) {
            let mut acc: [[$vec; 2]; $mr] = [[$zero(); 2]; $mr];
            for r in 0..c.rows {
                _mm_prefetch::<_MM_HINT_T0>(c.ptr.wrapping_add(r * c.stride).cast());
                _mm_prefetch::<_MM_HINT_T0>(c.ptr.wrapping_add(r * c.stride + $lanes).cast());
            }
            // SAFETY: reads kc steps of `a` and kc rows of `b`, which the caller promises; writes registers only.
            unsafe {
                asm!(
                    $(concat!($xor, " ", $x, ", ", $x, ", ", $x), concat!($xor, " ", $y, ", ", $y, ", ", $y),)*
                    ".p2align 4",
                    "2:",
                    concat!("vmovups ", $b0, ", [{b}]"),
                    concat!("vmovups ", $b1, ", [{b} + ", $bytes, "]"),
                    "prefetcht0 [{b} + 512]",
                    concat!("prefetcht0 [{b} + 512 + ", $bytes, "]"),
                    $(
                        concat!("vbroadcastss ", $t, ", dword ptr [{a} + ", $offset, "]"),
                        concat!("vfmadd231ps ", $x, ", ", $t, ", ", $b0),
                        concat!("vfmadd231ps ", $y, ", ", $t, ", ", $b1),
                    )*
                    concat!("add {a}, 4*", $mr),
                    "add {b}, {ldb}",
                    "dec {k}",
                    "jnz 2b",
                    a = inout(reg) a => _, b = inout(reg) b => _, k = inout(reg) kc => _, ldb = in(reg) ldb * 4,
                    out($b0) _, out($b1) _, out($t0) _, out($t1) _,
                    $(out($x) acc[$r][0], out($y) acc[$r][1],)*
                    options(nostack, readonly)
                );
            }
            if c.rows < $mr || c.cols < 2 * $lanes {
                let mut tile = [0.0f32; $mr * 2 * $lanes];
                for (pair, out) in acc.iter().zip(tile.chunks_exact_mut(2 * $lanes)) {
                    // SAFETY: `out` has two vectors.
                    unsafe {
                        $store(out.as_mut_ptr(), pair[0]);
                        $store(out.as_mut_ptr().add($lanes), pair[1]);
                    }
                }
                // SAFETY: the caller's promise about C.
                return unsafe { store_edge(&tile, 2 * $lanes, c) };
            }
            for (r, pair) in acc.iter().enumerate() {
                for (half, &value) in pair.iter().enumerate() {
                    let out = c.ptr.wrapping_add(r * c.stride + half * $lanes);
                    // SAFETY: a full tile lies inside C.
                    unsafe {
                        let value = if c.add { $add(value, $load(out)) } else { value };
                        $store(out, value);
                    }
                }
            }
        }
    };
}

macro_rules! avx512 {
    ($name:ident, $mr:tt, $($rows:tt),*) => {
        kernel!($name, "avx512f", $mr, 16, __m512, _mm512_setzero_ps, _mm512_loadu_ps, _mm512_storeu_ps, _mm512_add_ps,
            ["zmm0", "zmm1", "zmm2", "zmm3", "vpxorq", 64], $($rows),*);
    };
}

macro_rules! avx2 {
    ($name:ident, $mr:tt, $($rows:tt),*) => {
        kernel!($name, "avx2,fma", $mr, 8, __m256, _mm256_setzero_ps, _mm256_loadu_ps, _mm256_storeu_ps, _mm256_add_ps,
            ["ymm0", "ymm1", "ymm2", "ymm3", "vpxor", 32], $($rows),*);
    };
}

avx512!(
    avx512_4,
    4,
    (0, 0, "zmm2", "zmm4", "zmm5"),
    (1, 4, "zmm3", "zmm6", "zmm7"),
    (2, 8, "zmm2", "zmm8", "zmm9"),
    (3, 12, "zmm3", "zmm10", "zmm11")
);
avx512!(
    avx512_8,
    8,
    (0, 0, "zmm2", "zmm4", "zmm5"),
    (1, 4, "zmm3", "zmm6", "zmm7"),
    (2, 8, "zmm2", "zmm8", "zmm9"),
    (3, 12, "zmm3", "zmm10", "zmm11"),
    (4, 16, "zmm2", "zmm12", "zmm13"),
    (5, 20, "zmm3", "zmm14", "zmm15"),
    (6, 24, "zmm2", "zmm16", "zmm17"),
    (7, 28, "zmm3", "zmm18", "zmm19")
);
avx512!(
    avx512_12,
    12,
    (0, 0, "zmm2", "zmm4", "zmm5"),
    (1, 4, "zmm3", "zmm6", "zmm7"),
    (2, 8, "zmm2", "zmm8", "zmm9"),
    (3, 12, "zmm3", "zmm10", "zmm11"),
    (4, 16, "zmm2", "zmm12", "zmm13"),
    (5, 20, "zmm3", "zmm14", "zmm15"),
    (6, 24, "zmm2", "zmm16", "zmm17"),
    (7, 28, "zmm3", "zmm18", "zmm19"),
    (8, 32, "zmm2", "zmm20", "zmm21"),
    (9, 36, "zmm3", "zmm22", "zmm23"),
    (10, 40, "zmm2", "zmm24", "zmm25"),
    (11, 44, "zmm3", "zmm26", "zmm27")
);
avx2!(
    avx2_2,
    2,
    (0, 0, "ymm2", "ymm4", "ymm5"),
    (1, 4, "ymm3", "ymm6", "ymm7")
);
avx2!(
    avx2_4,
    4,
    (0, 0, "ymm2", "ymm4", "ymm5"),
    (1, 4, "ymm3", "ymm6", "ymm7"),
    (2, 8, "ymm2", "ymm8", "ymm9"),
    (3, 12, "ymm3", "ymm10", "ymm11")
);
avx2!(
    avx2_6,
    6,
    (0, 0, "ymm2", "ymm4", "ymm5"),
    (1, 4, "ymm3", "ymm6", "ymm7"),
    (2, 8, "ymm2", "ymm8", "ymm9"),
    (3, 12, "ymm3", "ymm10", "ymm11"),
    (4, 16, "ymm2", "ymm12", "ymm13"),
    (5, 20, "ymm3", "ymm14", "ymm15")
);
