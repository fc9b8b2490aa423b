//! A quantized matrix on a device.

use burn::module::Module;
use burn::tensor::{DType, Device, FloatDType, Int, Tensor, TensorData};
use ft_kernels::{Codes, Form, Output};

use crate::dynamic_map::SIGNED;
use crate::encoded::{Encoded, Scales};
use crate::nested::{self, Nested};
use crate::scheme::Scheme;
use crate::weight::Layout;

/// A frozen matrix in codes. All its tensors are constants: moved with the module, never visited.
#[derive(Module, Debug)]
pub struct Packed {
    /// `[words]` u32, four bytes of codes each.
    words: Tensor<1, Int>,
    /// `[scales]`.
    scales: Tensor<1>,
    /// `[words]` u32, four scales each.
    scale_codes: Option<Tensor<1, Int>>,
    #[module(skip)]
    form: Form,
    #[module(skip)]
    scheme: Scheme,
    #[module(skip)]
    layout: Layout,
    #[module(skip)]
    dtype: FloatDType,
}

impl Packed {
    /// Moves a matrix `[out, in]` to a device. `layout` is how the checkpoint holds it when it is not packed, `dtype` the
    /// type it has then.
    pub fn new(encoded: &Encoded, layout: Layout, dtype: FloatDType, device: &Device) -> Self {
        let (scales, codes, nested) = match &encoded.scales {
            Scales::Plain(scales) => (scales, None, None),
            Scales::Nested(nested) => (&nested.absmax, Some(&nested.codes), Some(form_of(nested))),
        };
        let [rows, cols] = encoded.shape;
        let codes_form = encoded.scheme.kind.table().map_or(Codes::Eight, |table| Codes::Four {
            table,
            block: encoded.scheme.block,
        });
        Self {
            words: words(&encoded.codes, device),
            scales: Tensor::from_data(TensorData::new(scales.clone(), [scales.len()]), (device, DType::F32)),
            scale_codes: codes.map(|codes| words(codes, device)),
            form: Form {
                rows,
                cols,
                codes: codes_form,
                nested,
            },
            scheme: encoded.scheme,
            layout,
            dtype,
        }
    }

    /// The same numbers in buffers of their own, copied by the device.
    pub fn copied(&self) -> Self {
        let copy = |words: &Tensor<1, Int>| words.clone().bitwise_or_scalar(0);
        Self {
            words: copy(&self.words),
            scales: self.scales.clone().add_scalar(0.0),
            scale_codes: self.scale_codes.as_ref().map(copy),
            ..self.clone()
        }
    }

    /// The matrix back in host memory.
    pub fn encoded(&self) -> Encoded {
        let blocks = match self.form.codes {
            Codes::Four { block, .. } => self.numbers().div_ceil(block),
            Codes::Eight => self.form.rows,
        };
        let code_bytes = match self.form.codes {
            Codes::Four { .. } => self.numbers().div_ceil(2),
            Codes::Eight => self.numbers(),
        };
        let scales = self.scales.to_data().try_to_vec::<f32>().expect("made of f32");
        Encoded {
            scheme: self.scheme,
            shape: self.dims(),
            codes: bytes(&self.words, code_bytes),
            scales: match (&self.scale_codes, &self.form.nested) {
                (Some(codes), Some(nested)) => Scales::Nested(Nested {
                    codes: bytes(codes, blocks),
                    absmax: scales,
                    offset: nested.offset,
                }),
                _ => Scales::Plain(scales),
            },
        }
    }

    /// `x · Wᵀ`, for x `[.., in]`, the output may be unread; only the packed buffers are kept for the backward pass.
    pub fn project<const D: usize>(&self, x: Tensor<D>, output: Output) -> Tensor<D> {
        ft_kernels::frozen_matmul_for(x, &self.kernel(), output)
    }

    /// `x · Wᵀ + scale · (dropout(x) · Aᵀ) · Bᵀ` as one operation; `dropout` is a probability and a seed.
    pub fn lora<const D: usize>(
        &self,
        x: Tensor<D>,
        a: Tensor<2>,
        b: Tensor<2>,
        scale: f64,
        dropout: Option<(f64, u64)>,
        output: Output,
    ) -> Tensor<D> {
        ft_kernels::frozen_lora(x, &self.kernel(), a, b, scale, dropout, output)
    }

    /// The matrix as `[out, in]`, unpacked exactly and then rounded to [`dtype`](Self::dtype).
    pub fn dense(&self) -> Tensor<2> {
        let dense = ft_kernels::unpack(&self.kernel());
        match self.dtype {
            FloatDType::F32 => dense,
            dtype => dense.cast(dtype),
        }
    }

    /// The same in the checkpoint's layout.
    pub fn value(&self) -> Tensor<2> {
        self.layout.orient(self.dense())
    }

    /// `[out, in]`.
    pub fn dims(&self) -> [usize; 2] {
        [self.form.rows, self.form.cols]
    }

    /// Type of the matrix once it is unpacked.
    pub fn dtype(&self) -> FloatDType {
        self.dtype
    }

    /// How it is quantized.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> usize {
        let len = |words: &Tensor<1, Int>| 4 * words.dims()[0];
        len(&self.words) + 4 * self.scales.dims()[0] + self.scale_codes.as_ref().map_or(0, len)
    }

    /// Where it lies.
    pub fn device(&self) -> Device {
        self.scales.device()
    }

    fn numbers(&self) -> usize {
        self.form.rows * self.form.cols
    }

    fn kernel(&self) -> ft_kernels::Packed {
        ft_kernels::Packed {
            words: self.words.clone(),
            scales: self.scales.clone(),
            scale_codes: self.scale_codes.clone(),
            form: self.form,
        }
    }
}

fn form_of(nested: &Nested) -> ft_kernels::Nested {
    ft_kernels::Nested {
        map: &SIGNED.values,
        block: nested::BLOCK,
        offset: nested.offset,
    }
}

fn words(bytes: &[u8], device: &Device) -> Tensor<1, Int> {
    let word = |b: &[u8]| u32::from_le_bytes(std::array::from_fn(|i| b.get(i).copied().unwrap_or(0)));
    let words: Vec<u32> = bytes.chunks(4).map(word).collect();
    let len = words.len();
    Tensor::from_data(TensorData::new(words, [len]), (device, DType::U32))
}

fn bytes(words: &Tensor<1, Int>, len: usize) -> Vec<u8> {
    let words = words.to_data().try_to_vec::<u32>().expect("made of u32");
    let mut bytes: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
    bytes.truncate(len);
    bytes
}
