//! Sums of squares and multiples of many tensors in few launches: as many cubes for each tensor of a launch.
use super::adamw::own;
use super::address_type;
use super::row::{element, total, vector};
use burn::backend::TensorMetadata;
use burn::tensor::{DType, Shape};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::calculate_cube_count_elemwise;
use cubecl::client::Client;
use cubecl::prelude::*;

/// Units of a cube, at most.
const UNITS: u32 = 256;
/// Tensors of a launch, at most: a kernel has a branch for each.
const MOST: usize = 32;

/// The sum of the squares of all numbers of one or more tensors, `[1]` in f32.
pub(crate) fn sum_of_squares(tensors: Vec<CubeTensor>) -> CubeTensor {
    let (client, device) = (tensors[0].client.clone(), tensors[0].device.clone());
    let groups: Vec<_> = alike(&client, &tensors)
        .into_iter()
        .map(|group| (parts(&tensors, &group), group))
        .collect();
    let slots = groups.iter().map(|(parts, group)| parts * group.len()).sum();
    let sums = empty_device_contiguous_dtype(client, device, Shape::new([slots]), DType::F32);
    let mut first = 0;
    for (parts, group) in groups {
        add_squares(&sums, group.iter().map(|i| tensors[*i].clone()), first, parts);
        first += group.len() * parts;
    }
    sum_of_parts(sums)
}

/// The sums of squares of `parts` parts of every tensor, from place `first` of `sums` on. All have one type.
fn add_squares(sums: &CubeTensor, tensors: impl Iterator<Item = CubeTensor>, first: usize, parts: usize) {
    // Any order of the numbers will do.
    let tensors: Vec<_> = tensors
        .map(|x| if is_dense(&x) { x } else { into_contiguous(x) })
        .collect();
    let (client, types) = (sums.client.clone(), element(&tensors[0]));
    let (dim, vector) = (dim(&client), common(&client, &tensors));
    let cubes = tensors.len() * parts;
    // SAFETY: cubes beyond the last part end at once, and numbers and slots are counted.
    unsafe {
        squares_of_many::launch_unchecked(
            &client,
            calculate_cube_count_elemwise(&client, cubes * dim.num_elems() as usize, dim),
            dim,
            widest(&tensors),
            vector,
            lengths(&tensors, vector),
            tensors.into_iter().map(CubeTensor::into_buffer_arg).collect(),
            sums.clone().into_buffer_arg(),
            first,
            parts,
            dim.num_elems() as usize,
            types,
        );
    }
}

/// The sum of x `[n]` f32, `[1]`.
fn sum_of_parts(x: CubeTensor) -> CubeTensor {
    let (client, n) = (x.client.clone(), x.shape().num_elements());
    let out = empty_device_contiguous_dtype(client.clone(), x.device.clone(), Shape::new([1]), DType::F32);
    let dim = dim(&client);
    // SAFETY: one cube, whose units stay below n.
    unsafe {
        add_parts::launch_unchecked(
            &client,
            CubeCount::Static(1, 1, 1),
            dim,
            address_type([&x]),
            x.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            n,
            dim.num_elems() as usize,
        );
    }
    out
}

/// Each times factor `[1]` f32, in place where nothing else holds it.
pub(crate) fn scale_each(tensors: Vec<CubeTensor>, factor: CubeTensor) -> Vec<CubeTensor> {
    let (client, factor) = (factor.client.clone(), into_contiguous(factor));
    let groups = alike(&client, &tensors);
    let tensors: Vec<_> = tensors.into_iter().map(own).collect();
    for group in groups {
        let parts = parts(&tensors, &group);
        let written: Vec<_> = group.iter().map(|i| tensors[*i].clone()).collect();
        let (dim, vector, types) = (dim(&client), common(&client, &written), element(&written[0]));
        // SAFETY: as in `add_squares`.
        unsafe {
            scale_many::launch_unchecked(
                &client,
                calculate_cube_count_elemwise(&client, written.len() * parts * dim.num_elems() as usize, dim),
                dim,
                widest(&written),
                vector,
                lengths(&written, vector),
                written.into_iter().map(CubeTensor::into_buffer_arg).collect(),
                factor.clone().into_buffer_arg(),
                parts,
                dim.num_elems() as usize,
                types,
            );
        }
    }
    tensors
}

/// Which tensors share a launch: all of one type, and all read in whole vectors or all one by one.
fn alike(client: &Client, tensors: &[CubeTensor]) -> Vec<Vec<usize>> {
    let kinds = tensors.iter().map(|x| (x.dtype, in_vectors(x)));
    groups(client, kinds, 1)
}

/// Whether the widest vectors divide its numbers.
pub(super) fn in_vectors(x: &CubeTensor) -> bool {
    x.shape().num_elements().is_multiple_of(8)
}

/// Places of what shares a launch: all of one kind, and no more than a launch takes where each has `buffers` buffers.
pub(super) fn groups<K: PartialEq>(client: &Client, kinds: impl Iterator<Item = K>, buffers: usize) -> Vec<Vec<usize>> {
    // Two for what all share and one for the scalars.
    let bindings = (client.properties().hardware.max_bindings as usize).saturating_sub(3);
    let most = (bindings / buffers).clamp(1, MOST);
    let mut groups: Vec<(K, Vec<usize>)> = Vec::new();
    for (i, kind) in kinds.enumerate() {
        match groups
            .iter_mut()
            .find(|(other, group)| *other == kind && group.len() < most)
        {
            Some((_, group)) => group.push(i),
            None => groups.push((kind, vec![i])),
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

/// Cubes that share the longest tensor of a group; the others have as many.
fn parts(tensors: &[CubeTensor], group: &[usize]) -> usize {
    let longest = group.iter().map(|i| tensors[*i].shape().num_elements()).max();
    longest.unwrap_or(0).div_ceil(1 << 13).clamp(1, 512)
}

pub(super) fn dim(client: &Client) -> CubeDim {
    let most = client.properties().hardware.max_units_per_cube.min(UNITS);
    CubeDim::new_1d(1 << most.ilog2())
}

/// Values that are read at a time in all of them.
fn common(client: &Client, tensors: &[CubeTensor]) -> usize {
    let vectors = tensors
        .iter()
        .map(|x| vector(client, &[x.dtype], x.shape().num_elements()));
    vectors.min().unwrap_or(1)
}

fn lengths(tensors: &[CubeTensor], vector: usize) -> SequenceArg<usize> {
    tensors.iter().map(|x| x.shape().num_elements() / vector).collect()
}

pub(super) fn widest(tensors: &[CubeTensor]) -> AddressType {
    let types = tensors.iter().map(CubeTensor::required_address_type);
    types.max().unwrap_or_default()
}

/// Whether its numbers lie side by side, in whatever order of dimensions.
fn is_dense(x: &CubeTensor) -> bool {
    let (shape, strides) = (x.shape(), x.meta.strides());
    let mut axes: Vec<_> = shape
        .iter()
        .zip(strides.iter())
        .filter(|(size, _)| **size > 1)
        .collect();
    axes.sort_by_key(|(_, stride)| **stride);
    let mut next = 1;
    axes.into_iter().all(|(size, stride)| {
        let here = *stride == next;
        next *= size;
        here
    })
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn squares_of_many<F: Float, N: Size>(
    lengths: &Sequence<usize>,
    tensors: &Sequence<Box<[Vector<F, N>]>>,
    sums: &mut [f32],
    first: usize,
    parts: usize,
    #[comptime] units: usize,
    #[define(F)] _dtype: ElemType,
) {
    let cube = CUBE_POS;
    let count = tensors.len();
    if cube >= count * parts {
        terminate!();
    }
    let (which, part) = (cube / parts, cube % parts);
    let mut sum = Vector::<f32, N>::new(0.0f32);
    #[unroll]
    for i in 0..count {
        if which == i {
            let x = &tensors[i];
            let mut at = part * units + UNIT_POS as usize;
            while at < lengths[i] {
                let value = Vector::<f32, N>::cast_from(x[at]);
                sum += value * value;
                at += parts * units;
            }
        }
    }
    let mut scratch = Shared::<[f32]>::new_slice(units);
    let sum = total(sum.vector_sum(), &mut scratch, units);
    if UNIT_POS == 0 {
        sums[first + cube] = sum;
    }
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn add_parts(x: &[f32], out: &mut [f32], n: usize, #[comptime] units: usize) {
    let mut sum = 0.0f32;
    let mut at = UNIT_POS as usize;
    while at < n {
        sum += x[at];
        at += units;
    }
    let mut scratch = Shared::<[f32]>::new_slice(units);
    let sum = total(sum, &mut scratch, units);
    if UNIT_POS == 0 {
        out[0] = sum;
    }
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn scale_many<F: Float, N: Size>(
    lengths: &Sequence<usize>,
    tensors: &mut Sequence<Box<[Vector<F, N>]>>,
    factor: &[f32],
    parts: usize,
    #[comptime] units: usize,
    #[define(F)] _dtype: ElemType,
) {
    let cube = CUBE_POS;
    let count = tensors.len();
    if cube >= count * parts {
        terminate!();
    }
    let (which, part) = (cube / parts, cube % parts);
    let factor = Vector::<f32, N>::new(factor[0]);
    #[unroll]
    for i in 0..count {
        if which == i {
            let x = &mut tensors[i];
            let mut at = part * units + UNIT_POS as usize;
            while at < lengths[i] {
                x[at] = Vector::<F, N>::cast_from(Vector::<f32, N>::cast_from(x[at]) * factor);
                at += parts * units;
            }
        }
    }
}
