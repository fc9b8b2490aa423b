//! The norm and the scaling of many tensors in few launches, on graphics cards.
#[cfg(feature = "gpu")]
use crate::cube;
use burn::backend::Dispatch;
#[cfg(feature = "gpu")]
use burn::backend::backend_extension;
use burn::backend::tensor::FloatTensor;
#[cfg(feature = "gpu")]
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::Tensor;
#[cfg(feature = "gpu")]
use burn::tensor::{DType, Shape};

/// Tensors of any shapes on one graphics card, in f32, f16 or bf16.
#[derive(Debug, Clone, Default)]
pub struct Many {
    tensors: Vec<FloatTensor<Dispatch>>,
}

/// Tensors of one launch.
#[cfg(feature = "gpu")]
pub(crate) const GROUP: usize = 8;

impl Many {
    /// One more.
    ///
    /// # Errors
    /// Gives back what no kernel takes: tensors on the CPU, of f64, or of no numbers.
    #[allow(clippy::result_large_err)]
    pub fn push<const D: usize>(&mut self, x: Tensor<D>) -> Result<(), Tensor<D>> {
        match takes(&x) {
            true => self.tensors.push(x.into_dispatch()),
            false => return Err(x),
        }
        Ok(())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// The sum of the squares of all their numbers, `[1]` in f32; `None` if there are none. One order, whatever runs first.
    pub fn sum_of_squares(&self) -> Option<Tensor<1>> {
        #[cfg(feature = "gpu")]
        return sum_of_squares(&self.tensors);
        #[cfg(not(feature = "gpu"))]
        None
    }

    /// Each of them times `factor` `[1]`, computed in f32; in the order in which they were pushed. What nothing else holds is
    /// written in place.
    pub fn scale(self, factor: &Tensor<1>) -> Scaled {
        #[cfg(feature = "gpu")]
        return Scaled(scale(self.tensors, factor).into_iter());
        #[cfg(not(feature = "gpu"))]
        {
            let _ = factor;
            Scaled(self.tensors.into_iter())
        }
    }
}

/// What [`Many::scale`] gives.
#[derive(Debug)]
pub struct Scaled(std::vec::IntoIter<FloatTensor<Dispatch>>);

impl Scaled {
    /// The next one, which was pushed with `D` dimensions.
    pub fn take<const D: usize>(&mut self) -> Option<Tensor<D>> {
        self.0.next().map(Tensor::from_dispatch)
    }
}

#[cfg(not(feature = "gpu"))]
fn takes<const D: usize>(_x: &Tensor<D>) -> bool {
    false
}

#[cfg(feature = "gpu")]
fn takes<const D: usize>(x: &Tensor<D>) -> bool {
    let float = matches!(x.dtype(), DType::F32 | DType::F16 | DType::BF16);
    float && x.shape().num_elements() > 0 && !crate::is_cpu(&x.device())
}

/// Numbers of the tensors of one launch: all of one type, and all read in whole vectors or all one by one.
#[cfg(feature = "gpu")]
fn groups(tensors: &[FloatTensor<Dispatch>]) -> Vec<Vec<usize>> {
    let mut groups: Vec<((DType, bool), Vec<usize>)> = Vec::new();
    for (i, x) in tensors.iter().enumerate() {
        let kind = (x.dtype(), x.shape().num_elements().is_multiple_of(8));
        let open = |(other, group): &&mut ((DType, bool), Vec<usize>)| *other == kind && group.len() < GROUP;
        match groups.iter_mut().find(open) {
            Some((_, group)) => group.push(i),
            None => groups.push((kind, vec![i])),
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

/// Cubes that share the longest tensor of a group; the others have as many.
#[cfg(feature = "gpu")]
fn parts(tensors: &[FloatTensor<Dispatch>], group: &[usize]) -> usize {
    let longest = group.iter().map(|i| tensors[*i].shape().num_elements()).max();
    longest.unwrap_or(0).div_ceil(1 << 13).clamp(1, 512)
}

#[cfg(feature = "gpu")]
fn sum_of_squares(tensors: &[FloatTensor<Dispatch>]) -> Option<Tensor<1>> {
    let device = tensors.first()?.device();
    let groups: Vec<_> = groups(tensors)
        .into_iter()
        .map(|group| (parts(tensors, &group), group))
        .collect();
    let slots = groups.iter().map(|(parts, group)| parts * group.len()).sum();
    let mut sums = <Dispatch as burn::backend::ops::FloatTensorOps<Dispatch>>::float_empty(
        Shape::new([slots]),
        &device,
        burn::tensor::FloatDType::F32,
    );
    let mut first = 0;
    for (parts, group) in groups {
        let count = group.len();
        let [a, b, c, d, e, f, g, h] = std::array::from_fn(|i| tensors[group[i.min(count - 1)]].clone());
        sums = <Dispatch as ManyOps>::add_squares_of(sums, a, b, c, d, e, f, g, h, count, first, parts);
        first += count * parts;
    }
    Some(Tensor::from_dispatch(<Dispatch as ManyOps>::sum_of_parts(sums)))
}

#[cfg(feature = "gpu")]
fn scale(tensors: Vec<FloatTensor<Dispatch>>, factor: &Tensor<1>) -> Vec<FloatTensor<Dispatch>> {
    let groups: Vec<_> = groups(&tensors)
        .into_iter()
        .map(|group| (parts(&tensors, &group), group))
        .collect();
    let mut tensors: Vec<_> = tensors.into_iter().map(Some).collect();
    let factor = factor.clone().into_dispatch();
    for (parts, group) in groups {
        let mut given = group.iter().map(|i| tensors[*i].take().expect("in one group"));
        let [a, b, c, d, e, f, g, h] = std::array::from_fn(|_| given.next().unwrap_or_else(|| factor.clone()));
        let (a, b, c, d, e, f, g, h) =
            <Dispatch as ManyOps>::scale_each(a, b, c, d, e, f, g, h, factor.clone(), group.len(), parts);
        for (i, x) in group.into_iter().zip([a, b, c, d, e, f, g, h]) {
            tensors[i] = Some(x);
        }
    }
    tensors.into_iter().flatten().collect()
}

/// The backend operations of [`Many`]. There are always eight tensors; only the first `count` are read or written, all of one
/// type.
#[cfg(feature = "gpu")]
#[allow(clippy::too_many_arguments, clippy::type_complexity)]
#[backend_extension(Cube, Fusion)]
pub trait ManyOps: Backend {
    /// `sums` `[slots]` f32 with the sums of squares of `parts` parts of each tensor from place `first`.
    #[fusion(dtype = sums, shape = sums)]
    fn add_squares_of(
        sums: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        d: FloatTensor<Self>,
        e: FloatTensor<Self>,
        f: FloatTensor<Self>,
        g: FloatTensor<Self>,
        h: FloatTensor<Self>,
        count: usize,
        first: usize,
        parts: usize,
    ) -> FloatTensor<Self>;

    /// The sum of all numbers, `[1]`.
    #[fusion(dtype = sums, shape = Shape::new([1]))]
    fn sum_of_parts(sums: FloatTensor<Self>) -> FloatTensor<Self>;

    /// Each times `factor` `[1]` f32, by `parts` cubes.
    #[fusion(meta = |a, b, c, d, e, f, g, h, _factor, _count, _parts| {
        (a.clone(), b.clone(), c.clone(), d.clone(), e.clone(), f.clone(), g.clone(), h.clone())
    })]
    fn scale_each(
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        d: FloatTensor<Self>,
        e: FloatTensor<Self>,
        f: FloatTensor<Self>,
        g: FloatTensor<Self>,
        h: FloatTensor<Self>,
        factor: FloatTensor<Self>,
        count: usize,
        parts: usize,
    ) -> (
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
    );
}

#[cfg(feature = "gpu")]
#[allow(clippy::type_complexity)]
impl ManyOps for burn_cubecl::CubeBackend {
    fn add_squares_of(
        sums: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        d: FloatTensor<Self>,
        e: FloatTensor<Self>,
        f: FloatTensor<Self>,
        g: FloatTensor<Self>,
        h: FloatTensor<Self>,
        count: usize,
        first: usize,
        parts: usize,
    ) -> FloatTensor<Self> {
        let tensors = [a, b, c, d, e, f, g, h].into_iter().take(count);
        cube::add_squares(sums, tensors.collect(), first, parts)
    }

    fn sum_of_parts(sums: FloatTensor<Self>) -> FloatTensor<Self> {
        cube::sum_of_parts(sums)
    }

    fn scale_each(
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        d: FloatTensor<Self>,
        e: FloatTensor<Self>,
        f: FloatTensor<Self>,
        g: FloatTensor<Self>,
        h: FloatTensor<Self>,
        factor: FloatTensor<Self>,
        count: usize,
        parts: usize,
    ) -> (
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
    ) {
        let [a, b, c, d, e, f, g, h] = cube::scale_each([a, b, c, d, e, f, g, h], factor, count, parts);
        (a, b, c, d, e, f, g, h)
    }
}
