//! Lists of tensors as inputs and outputs of backend operations: what `#[derive(ExtensionType)]` makes of fields, for any number of
//! tensors.
use burn::backend::fusion::custom::{
    ExtensionMetadata, Float, FusionValueAdapter, HandleContainer, Int, OutputTensor, TensorId, TensorIr, TensorSpec,
};
use burn::backend::fusion::{ExecutionError, Fusion, FusionBackend, FusionRuntime, FusionTensor};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{
    Backend, BackendTensor, Dispatch, DispatchAutodiffContext, DispatchTensor, DispatchTensorKind, ExtensionType,
};

type Handles<B> = HandleContainer<<<B as FusionBackend>::FusionRuntime as FusionRuntime>::FusionHandle>;

macro_rules! list {
    ($(#[$doc:meta])* $list:ident of $tensor:ident, $kind:ident, $take:ident, float: $float:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone)]
        pub struct $list<B: Backend>(pub Vec<$tensor<B>>);

        impl<B: Backend> ExtensionType<B> for $list<B> {
            type Target = $list<Dispatch>;

            fn map_to_dispatch<F>(self, map_kind: F, autodiff: DispatchAutodiffContext) -> Self::Target
            where
                F: Fn(BackendTensor<B>) -> DispatchTensorKind,
            {
                let wrap = |x| DispatchTensor {
                    kind: map_kind(BackendTensor::$kind(x)),
                    autodiff,
                };
                $list(self.0.into_iter().map(wrap).collect())
            }

            fn map_from_dispatch<F>(target: Self::Target, unwrap_kind: F) -> Self
            where
                F: Fn(DispatchTensor) -> BackendTensor<B>,
            {
                Self(target.0.into_iter().map(|x| unwrap_kind(x).$take()).collect())
            }

            fn routing_tensor(target: &Self::Target) -> Option<&DispatchTensor> {
                target.0.first()
            }

            fn routing_float_tensor(target: &Self::Target) -> Option<&DispatchTensor> {
                target.0.first().filter(|_| $float)
            }

            fn autodiff_context(target: &Self::Target) -> DispatchAutodiffContext {
                let contexts = target.0.iter().map(|x| x.autodiff);
                contexts.fold(DispatchAutodiffContext::Disabled, |all, one| all.merge(one))
            }
        }

        impl<B: Backend> ExtensionMetadata for $list<B> {
            type Metadata = Vec<TensorSpec>;
            type Input = Vec<TensorIr>;
            type Output = Vec<OutputTensor>;
        }

        impl<B: FusionBackend> FusionValueAdapter<B> for $list<B> {
            type Metadata = Vec<TensorSpec>;
            type Input = Vec<TensorIr>;
            type Output = Vec<OutputTensor>;
            type Inner = Self;
            type Fused = $list<Fusion<B>>;

            fn to_metadata(value: &Self::Fused) -> Self::Metadata {
                let each = value.0.iter();
                each.map(<$kind as FusionValueAdapter<B>>::to_metadata).collect()
            }

            fn visit_fused_tensors(value: &Self::Fused, visit: &mut impl FnMut(&FusionTensor<B::FusionRuntime>)) {
                value.0.iter().for_each(visit);
            }

            fn tensor_count(meta: &Self::Metadata) -> usize {
                meta.len()
            }

            fn append_input_ir(value: Self::Fused, inputs: &mut Vec<TensorIr>) -> Self::Input {
                let each = value.0.into_iter();
                each.map(|x| <$kind as FusionValueAdapter<B>>::append_input_ir(x, inputs)).collect()
            }

            fn resolve_inputs(input: &Self::Input, handles: &mut Handles<B>) -> Self {
                let each = input.iter();
                Self(each.map(|x| <$kind as FusionValueAdapter<B>>::resolve_inputs(x, handles)).collect())
            }

            fn append_output_ir(
                meta: &Self::Metadata,
                out: &mut Vec<TensorIr>,
                create: &mut impl FnMut() -> TensorId,
            ) -> Self::Output {
                let each = meta.iter();
                each.map(|x| <$kind as FusionValueAdapter<B>>::append_output_ir(x, out, create)).collect()
            }

            fn validate_outputs(
                value: &Self,
                output: &Self::Output,
                device: Option<&B::Device>,
            ) -> Result<(), ExecutionError> {
                if value.0.len() != output.len() {
                    let (got, want) = (value.0.len(), output.len());
                    return Err(ExecutionError::generic(format!("{got} tensors for a list of {want}")));
                }
                let mut each = value.0.iter().zip(output);
                each.try_for_each(|(x, at)| <$kind as FusionValueAdapter<B>>::validate_outputs(x, at, device))
            }

            fn register_output_handles(value: Self, output: &Self::Output, handles: &mut Handles<B>) {
                for (x, at) in value.0.into_iter().zip(output) {
                    <$kind as FusionValueAdapter<B>>::register_output_handles(x, at, handles);
                }
            }

            fn build_fused_output(
                meta: &Self::Metadata,
                tensors: &mut std::vec::IntoIter<FusionTensor<B::FusionRuntime>>,
            ) -> Self::Fused {
                let each = meta.iter();
                $list(each.map(|x| <$kind as FusionValueAdapter<B>>::build_fused_output(x, tensors)).collect())
            }
        }
    };
}

list! {
    /// Of numbers.
    Floats of FloatTensor, Float, float, float: true
}
list! {
    /// Of integers.
    Ints of IntTensor, Int, int, float: false
}
