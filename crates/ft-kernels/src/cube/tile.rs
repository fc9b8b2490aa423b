//! Tiles in shared memory, and their products: by the units one by one, or by planes on matrix units (tensor cores).
//!
//! ```text
//! dots     scores[i][j]  = a[i]·b[j]             a, b: rows of vectors        scores: f32
//! combine  sums[i]      += Σ p[i][j]·b[j]        p: weights in the type of b, or their transpose      sums: f32
//! ```
//! Rows of a tile are a little longer than what they hold, so that units which read one column of several rows meet in fewer
//! banks of memory.
use cubecl::prelude::*;

/// Units of a plane whose device has matrix units.
pub(super) const PLANE: usize = 32;
/// Rows and columns of what a matrix unit multiplies.
const SIDE: usize = 16;
/// Rows and columns of what a unit multiplies.
const BLOCK: usize = 4;
/// What the pointers of matrix units are multiples of, in bytes.
const ALIGNMENT: usize = 32;

/// What kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Tile {
    /// Queries, a multiple of [`BLOCK`].
    pub(super) rows: usize,
    /// Keys, a multiple of [`BLOCK`].
    pub(super) cols: usize,
    /// Vectors of a head.
    pub(super) d: usize,
    /// Values of a vector.
    pub(super) vector: usize,
    /// Bytes of a value.
    pub(super) size: usize,
    /// Units of a cube, a multiple of the rows.
    pub(super) units: usize,
    /// Whether planes multiply.
    pub(super) planes: bool,
}

impl Tile {
    /// Vectors from one row of inputs to the next.
    pub(super) fn input_pitch(&self) -> usize {
        self.d + 1
    }

    /// Numbers from one row of scores to the next.
    pub(super) fn score_pitch(&self) -> usize {
        self.cols + 4
    }

    /// Numbers from one row of weights to the next.
    pub(super) fn weight_pitch(&self) -> usize {
        self.cols + 8
    }

    /// Numbers from one row of sums to the next.
    pub(super) fn sum_pitch(&self) -> usize {
        self.d * self.vector + 4
    }

    /// Units that share a query.
    pub(super) fn share(&self) -> usize {
        self.units / self.rows
    }

    /// Bytes of tiles in shared memory: how many of the inputs for queries and for keys, of scores, of weights, and rows of sums.
    pub(super) fn bytes(&self, [queries, keys, scores, weights]: [usize; 4], sums: usize) -> usize {
        let inputs = (queries * self.rows + keys * self.cols) * self.input_pitch() * self.vector * self.size;
        let scores = scores * self.rows * self.score_pitch() * 4;
        let weights = weights * self.rows * self.weight_pitch() * self.size;
        let small = 4 * (2 * self.units + self.rows + 16);
        inputs + scores + weights + sums * self.sum_pitch() * 4 + small
    }
}

/// Room for rows of queries or keys.
#[cube]
pub(super) fn inputs<F: Float, N: Size>(#[comptime] rows: usize, #[comptime] tile: Tile) -> Shared<[Vector<F, N>]> {
    Shared::<[Vector<F, N>]>::new_aligned_slice(comptime!(rows * tile.input_pitch()), ALIGNMENT)
}

#[cube]
pub(super) fn scores(#[comptime] tile: Tile) -> Shared<[f32]> {
    Shared::<[f32]>::new_aligned_slice(comptime!(tile.rows * tile.score_pitch()), ALIGNMENT)
}

#[cube]
pub(super) fn weights<F: Float>(#[comptime] tile: Tile) -> Shared<[F]> {
    Shared::<[F]>::new_aligned_slice(comptime!(tile.rows * tile.weight_pitch()), ALIGNMENT)
}

/// Sums for `rows` queries or keys, all 0.
#[cube]
pub(super) fn sums(#[comptime] rows: usize, #[comptime] tile: Tile) -> Shared<[f32]> {
    let mut sums = Shared::<[f32]>::new_aligned_slice(comptime!(rows * tile.sum_pitch()), ALIGNMENT);
    let mut at = UNIT_POS as usize;
    while at < comptime!(rows * tile.sum_pitch()) {
        sums[at] = 0.0;
        at += tile.units;
    }
    sums
}

/// Copies rows `first ..` of a head to a tile: 0 from row `end` on. Row i begins at vector `start + i · stride`.
#[cube]
pub(super) fn fill<F: Float, N: Size>(
    to: &mut Shared<[Vector<F, N>]>,
    from: &[Vector<F, N>],
    start: usize,
    stride: usize,
    first: usize,
    end: usize,
    #[comptime] rows: usize,
    #[comptime] tile: Tile,
) {
    let mut at = UNIT_POS as usize;
    while at < comptime!(rows * tile.d) {
        let (row, c) = (at / tile.d, at % tile.d);
        let mut vector = Vector::<F, N>::new(F::from_int(0));
        if first + row < end {
            vector = from[start + (first + row) * stride + c];
        }
        to[row * comptime!(tile.input_pitch()) + c] = vector;
        at += tile.units;
    }
}

/// `scores[i][j] = a[i]·b[j]` for the queries' rows i of a and the keys' rows j of b.
#[cube]
pub(super) fn dots<F: Float, N: Size>(
    a: &Shared<[Vector<F, N>]>,
    b: &Shared<[Vector<F, N>]>,
    scores: &mut Shared<[f32]>,
    #[comptime] tile: Tile,
) {
    if comptime!(tile.planes) {
        dots_of_planes::<F, N>(a, b, scores, tile);
    } else {
        dots_of_units::<F, N>(a, b, scores, tile);
    }
}

#[cube]
fn dots_of_units<F: Float, N: Size>(
    a: &Shared<[Vector<F, N>]>,
    b: &Shared<[Vector<F, N>]>,
    scores: &mut Shared<[f32]>,
    #[comptime] tile: Tile,
) {
    let across = comptime!(tile.cols / BLOCK);
    let blocks = comptime!(tile.rows / BLOCK * across);
    let pitch = comptime!(tile.input_pitch());
    let mut block = UNIT_POS as usize;
    while block < blocks {
        let (i, j) = (block / across * BLOCK, block % across * BLOCK);
        let mut parts = Array::<Vector<f32, N>>::new(comptime!(BLOCK * BLOCK));
        #[unroll]
        for n in 0..comptime!(BLOCK * BLOCK) {
            parts[n] = Vector::<f32, N>::new(0.0f32);
        }
        for c in 0..tile.d {
            let mut right = Array::<Vector<f32, N>>::new(BLOCK);
            #[unroll]
            for n in 0..BLOCK {
                right[n] = Vector::<f32, N>::cast_from(b[(j + n) * pitch + c]);
            }
            #[unroll]
            for m in 0..BLOCK {
                let left = Vector::<f32, N>::cast_from(a[(i + m) * pitch + c]);
                #[unroll]
                for n in 0..BLOCK {
                    parts[m * BLOCK + n] += left * right[n];
                }
            }
        }
        #[unroll]
        for m in 0..BLOCK {
            #[unroll]
            for n in 0..BLOCK {
                scores[(i + m) * comptime!(tile.score_pitch()) + j + n] = parts[m * BLOCK + n].vector_sum();
            }
        }
        block += tile.units;
    }
}

#[cube]
fn dots_of_planes<F: Float, N: Size>(
    a: &Shared<[Vector<F, N>]>,
    b: &Shared<[Vector<F, N>]>,
    scores: &mut Shared<[f32]>,
    #[comptime] tile: Tile,
) {
    let across = comptime!(tile.cols / SIDE);
    let count = comptime!(tile.rows / SIDE * across);
    let (pitch, score_pitch) = comptime!((tile.input_pitch(), tile.score_pitch()));
    let step = comptime!(SIDE / tile.vector);
    let mut part = UNIT_POS as usize / PLANE;
    while part < count {
        let (i, j) = (part / across * SIDE, part % across * SIDE);
        let sum = cmma::Matrix::<f32>::from_value(
            cmma::MatrixIdent::Accumulator,
            SIDE,
            SIDE,
            SIDE,
            cmma::MatrixLayout::Undefined,
            0.0,
        );
        #[unroll]
        for c in 0..comptime!(tile.d / step) {
            let left = matrix_a::<F, N>(a, i * pitch + c * step, comptime!((pitch * tile.vector) as u32));
            let mut right = unsafe {
                cmma::Matrix::<F>::uninitialized(cmma::MatrixIdent::B, SIDE, SIDE, SIDE, cmma::MatrixLayout::ColMajor)
            };
            let start = j * pitch + c * step;
            cmma::load(&mut right, &b[start..b.len()], comptime!((pitch * tile.vector) as u32));
            cmma::execute(&left, &right, &sum, &sum);
        }
        let start = i * score_pitch + j;
        let end = comptime!(tile.rows * score_pitch);
        cmma::store(
            &mut scores[start..end],
            &sum,
            comptime!(score_pitch as u32),
            cmma::MatrixLayout::RowMajor,
        );
        part += comptime!(tile.units / PLANE);
    }
}

#[cube]
fn matrix_a<F: Float, N: Size>(
    from: &Shared<[Vector<F, N>]>,
    start: usize,
    #[comptime] stride: u32,
) -> cmma::Matrix<F> {
    let mut a = unsafe {
        cmma::Matrix::<F>::uninitialized(cmma::MatrixIdent::A, SIDE, SIDE, SIDE, cmma::MatrixLayout::RowMajor)
    };
    cmma::load(&mut a, &from[start..from.len()], stride);
    a
}

/// `sums[i] += Σ p[i][j]·b[j]`: rows i are queries and rows j of b keys; the other way round with the transpose of p.
#[cube]
pub(super) fn combine<F: Float, N: Size>(
    p: &Shared<[F]>,
    b: &Shared<[Vector<F, N>]>,
    sums: &mut Shared<[f32]>,
    #[comptime] transposed: bool,
    #[comptime] tile: Tile,
) {
    if comptime!(tile.planes) {
        combine_of_planes::<F, N>(p, b, sums, transposed, tile);
    } else {
        combine_of_units::<F, N>(p, b, sums, transposed, tile);
    }
}

#[cube]
fn combine_of_units<F: Float, N: Size>(
    p: &Shared<[F]>,
    b: &Shared<[Vector<F, N>]>,
    sums: &mut Shared<[f32]>,
    #[comptime] transposed: bool,
    #[comptime] tile: Tile,
) {
    let (rows, depth) = comptime!(if transposed {
        (tile.cols, tile.rows)
    } else {
        (tile.rows, tile.cols)
    });
    let (down, across) = comptime!(if transposed {
        (1, tile.weight_pitch())
    } else {
        (tile.weight_pitch(), 1)
    });
    let mut item = UNIT_POS as usize;
    while item < comptime!(rows / BLOCK * tile.d) {
        let (i, c) = (item / tile.d * BLOCK, item % tile.d);
        let mut parts = Array::<Vector<f32, N>>::new(BLOCK);
        #[unroll]
        for m in 0..BLOCK {
            parts[m] = Vector::<f32, N>::new(0.0f32);
        }
        for j in 0..depth {
            let vector = Vector::<f32, N>::cast_from(b[j * comptime!(tile.input_pitch()) + c]);
            #[unroll]
            for m in 0..BLOCK {
                let weight = f32::cast_from(p[(i + m) * down + j * across]);
                parts[m] += Vector::<f32, N>::new(weight) * vector;
            }
        }
        #[unroll]
        for m in 0..BLOCK {
            #[unroll]
            for k in 0..tile.vector {
                sums[(i + m) * comptime!(tile.sum_pitch()) + c * tile.vector + k] += parts[m].extract(k);
            }
        }
        item += tile.units;
    }
}

#[cube]
fn combine_of_planes<F: Float, N: Size>(
    p: &Shared<[F]>,
    b: &Shared<[Vector<F, N>]>,
    sums: &mut Shared<[f32]>,
    #[comptime] transposed: bool,
    #[comptime] tile: Tile,
) {
    let (rows, depth) = comptime!(if transposed {
        (tile.cols, tile.rows)
    } else {
        (tile.rows, tile.cols)
    });
    let across = comptime!(tile.d * tile.vector / SIDE);
    let (pitch, weight_pitch, sum_pitch) = comptime!((tile.input_pitch(), tile.weight_pitch(), tile.sum_pitch()));
    let mut part = UNIT_POS as usize / PLANE;
    while part < comptime!(rows / SIDE * across) {
        let (i, c) = (part / across * SIDE, part % across * SIDE);
        let at = i * sum_pitch + c;
        let end = comptime!(rows * sum_pitch);
        let mut sum = unsafe {
            cmma::Matrix::<f32>::uninitialized(
                cmma::MatrixIdent::Accumulator,
                SIDE,
                SIDE,
                SIDE,
                cmma::MatrixLayout::Undefined,
            )
        };
        cmma::load_with_layout(
            &mut sum,
            &sums[at..end],
            comptime!(sum_pitch as u32),
            cmma::MatrixLayout::RowMajor,
        );
        #[unroll]
        for j in 0..comptime!(depth / SIDE) {
            let mut right = unsafe {
                cmma::Matrix::<F>::uninitialized(cmma::MatrixIdent::B, SIDE, SIDE, SIDE, cmma::MatrixLayout::RowMajor)
            };
            let start = j * SIDE * pitch + c / tile.vector;
            cmma::load(&mut right, &b[start..b.len()], comptime!((pitch * tile.vector) as u32));
            if comptime!(transposed) {
                let mut left = unsafe {
                    cmma::Matrix::<F>::uninitialized(
                        cmma::MatrixIdent::A,
                        SIDE,
                        SIDE,
                        SIDE,
                        cmma::MatrixLayout::ColMajor,
                    )
                };
                let start = j * SIDE * weight_pitch + i;
                cmma::load(&mut left, &p[start..p.len()], comptime!(weight_pitch as u32));
                cmma::execute(&left, &right, &sum, &sum);
            } else {
                let mut left = unsafe {
                    cmma::Matrix::<F>::uninitialized(
                        cmma::MatrixIdent::A,
                        SIDE,
                        SIDE,
                        SIDE,
                        cmma::MatrixLayout::RowMajor,
                    )
                };
                let start = i * weight_pitch + j * SIDE;
                cmma::load(&mut left, &p[start..p.len()], comptime!(weight_pitch as u32));
                cmma::execute(&left, &right, &sum, &sum);
            }
        }
        cmma::store(
            &mut sums[at..end],
            &sum,
            comptime!(sum_pitch as u32),
            cmma::MatrixLayout::RowMajor,
        );
        part += comptime!(tile.units / PLANE);
    }
}
