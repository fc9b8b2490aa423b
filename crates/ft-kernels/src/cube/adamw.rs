//! AdamW over many parameters in few launches: one unit for a few numbers of a parameter.
use super::many::{dim, groups, in_vectors, widest};
use super::row::{element, vector};
use crate::adamw::AdamWStep;
use burn::backend::TensorMetadata;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::calculate_cube_count_elemwise;
use cubecl::prelude::*;

/// A parameter, its gradient and its moments.
pub(crate) type Row = [CubeTensor; 4];

/// The new parameters and moments, in place where nothing else holds them. What [`super::rows_fit`] allows, none empty.
pub(crate) fn adamw(rows: Vec<(Row, AdamWStep)>) -> Vec<[CubeTensor; 3]> {
    let Some(client) = rows.first().map(|(row, _)| row[0].client.clone()) else {
        return vec![];
    };
    let kind = |([param, grad, ..], step): &(Row, AdamWStep)| (param.dtype, grad.dtype, in_vectors(param), *step);
    let groups = groups(&client, rows.iter().map(kind), 4);
    let rows: Vec<_> = rows
        .into_iter()
        .map(|([param, grad, m, v], step)| ([own(param), grad, own(m), own(v)], step))
        .collect();
    for group in groups {
        launch(&rows, &group);
    }
    rows.into_iter().map(|([param, _, m, v], _)| [param, m, v]).collect()
}

/// One launch for the rows of these places, which are all of one kind.
fn launch(rows: &[(Row, AdamWStep)], group: &[usize]) {
    let (first, step) = &rows[group[0]];
    let client = first[0].client.clone();
    let types = [element(&first[0]), element(&first[1])];
    let all: Vec<Row> = group.iter().map(|i| rows[*i].0.clone().map(into_contiguous)).collect();
    let numbers = |row: &Row| row[0].shape().num_elements();
    let widths = all
        .iter()
        .map(|row| vector(&client, &[row[0].dtype, row[1].dtype, row[2].dtype], numbers(row)));
    let vector = widths.min().unwrap_or(1);
    let dim = dim(&client);
    let units = dim.num_elems() as usize;
    let lengths: Vec<usize> = all.iter().map(|row| numbers(row) / vector).collect();
    let ends = ends(lengths.iter().map(|length| length.div_ceil(units)));
    let cubes = ends.last().copied().unwrap_or(0);
    let buffers = |which: usize| all.iter().map(move |row| row[which].clone());
    let number = |x: f64| x as f32;
    // SAFETY: cubes beyond the last tensor and units beyond the end of one do nothing, and the tensors of a row are as long.
    unsafe {
        adamw_step::launch_unchecked(
            &client,
            calculate_cube_count_elemwise(&client, cubes * units, dim),
            dim,
            widest(&all.concat()),
            vector,
            ends.into_iter().collect(),
            lengths.into_iter().collect(),
            buffers(0).map(CubeTensor::into_buffer_arg).collect(),
            buffers(1).map(CubeTensor::into_buffer_arg).collect(),
            buffers(2).map(CubeTensor::into_buffer_arg).collect(),
            buffers(3).map(CubeTensor::into_buffer_arg).collect(),
            number(step.keep),
            number(step.toward),
            number(step.beta2),
            number(1.0 - step.beta2),
            number(step.step_size),
            number(step.lift),
            number(step.eps),
            units,
            types,
        );
    }
}

/// Running sums.
pub(super) fn ends(cubes: impl Iterator<Item = usize>) -> Vec<usize> {
    let sums = cubes.scan(0, |end, cubes| {
        *end += cubes;
        Some(*end)
    });
    sums.collect()
}

/// Itself if nothing else holds it, else a copy; without gaps.
pub(super) fn own(x: CubeTensor) -> CubeTensor {
    let x = into_contiguous(x);
    if x.can_mut() { x } else { into_contiguous(x.copy()) }
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn adamw_step<F: Float, G: Float, N: Size>(
    ends: &Sequence<usize>,
    lengths: &Sequence<usize>,
    params: &mut Sequence<Box<[Vector<F, N>]>>,
    grads: &Sequence<Box<[Vector<G, N>]>>,
    ms: &mut Sequence<Box<[Vector<f32, N>]>>,
    vs: &mut Sequence<Box<[Vector<f32, N>]>>,
    keep: f32,
    toward: f32,
    beta2: f32,
    rest2: f32,
    step_size: f32,
    lift: f32,
    eps: f32,
    #[comptime] units: usize,
    #[define(F, G)] _types: [ElemType; 2],
) {
    let cube = CUBE_POS;
    let count = params.len();
    let mut start = 0usize.runtime();
    #[unroll]
    for i in 0..count {
        let end = ends[i];
        let at = (cube - start) * units + UNIT_POS as usize;
        if cube >= start && cube < end && at < lengths[i] {
            let param = &mut params[i];
            let m = &mut ms[i];
            let v = &mut vs[i];
            let g = Vector::<f32, N>::cast_from(grads[i][at]);
            let first = m[at] + Vector::<f32, N>::new(toward) * (g - m[at]);
            let second = Vector::<f32, N>::new(beta2) * v[at] + Vector::<f32, N>::new(rest2) * (g * g);
            let divisor = second.sqrt() * Vector::<f32, N>::new(lift) + Vector::<f32, N>::new(eps);
            let old = Vector::<f32, N>::cast_from(param[at]) * Vector::<f32, N>::new(keep);
            param[at] = Vector::<F, N>::cast_from(old - Vector::<f32, N>::new(step_size) * (first / divisor));
            m[at] = first;
            v[at] = second;
        }
        start = end;
    }
}
