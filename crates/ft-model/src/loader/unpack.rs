//! Matrices in codes that do not stay codes.

use burn::tensor::{DType, FloatDType, Tensor, TensorData};
use ft_quant::{Encoded, Layout, Packed, Weight};
use rayon::prelude::*;
use safetensors::Dtype;

use super::{Loader, held_as};
use crate::mxfp4;

impl Loader<'_> {
    /// A layer `[out, in]` that the checkpoint holds in MXFP4, unpacked, and quantized where that is asked for.
    pub(super) fn unpack(
        &mut self,
        path: &str,
        shape: [usize; 2],
        layout: Layout,
    ) -> std::result::Result<Weight, String> {
        let names = mxfp4::names(path);
        self.used.extend(names.clone());
        let why = || format!("{path}: rows of {} are not made of blocks of 32", shape[1]);
        let shapes = mxfp4::shapes(shape).ok_or_else(why)?;
        for (name, shape) in names.iter().zip(&shapes) {
            let entry = &self.checkpoint.entries[name];
            if entry.shape != *shape || entry.dtype != Dtype::U8 {
                return Err(format!(
                    "{name}: bytes {shape:?} expected, found {:?} {:?}",
                    entry.dtype, entry.shape
                ));
            }
        }
        let [blocks, scales] = names
            .each_ref()
            .map(|name| self.checkpoint.bytes(&self.checkpoint.entries[name]));
        let values = mxfp4::unpack(blocks, scales).map_err(|why| format!("{path}.scales: {why}"))?;
        names.iter().for_each(|name| self.checkpoint.release(name));
        let dtype = self.dtype.of(DType::BF16);
        if let Some(scheme) = self.quant {
            let encoded = Encoded::encode(&values, shape, scheme).map_err(|e| format!("{path}: {e}"))?;
            let packed = Packed::new(&encoded, layout, FloatDType::from(dtype), self.device);
            return Ok(Weight::packed(packed, layout));
        }
        let [rows, columns] = shape;
        let (values, shape) = match layout {
            Layout::OutIn => (values, shape),
            Layout::InOut => {
                let at = |i: usize| values[i % rows * columns + i / rows];
                ((0..values.len()).into_par_iter().map(at).collect(), [columns, rows])
            }
        };
        let held = held_as(dtype, self.device);
        let data = TensorData::new(values, shape).convert_dtype(held);
        Ok(Weight::new(Tensor::from_data(data, (self.device, held)), layout))
    }
}
