//! Every method on every base in every storage: what laws are tested over.

use std::cell::RefCell;

use burn::tensor::{Device, FloatDType};
use ft_model::{LoadDtype, Model};
use ft_peft::PeftConfig;
use ft_quant::{Kind, Scheme};

use crate::methods_laws::{BASES, METHODS, config};
use crate::support::fixture;

/// Families whose projections have no biases.
const UNBIASED: [&str; 3] = ["families/llama", "families/mistral", "families/qwen3"];

/// A base as it is held.
pub struct Held {
    name: &'static str,
    dtype: LoadDtype,
    scheme: Option<Scheme>,
    /// On the device that was asked for first.
    loaded: RefCell<Option<Model>>,
}

/// Every way of holding the frozen matrices.
const STORAGES: [(LoadDtype, Option<Scheme>); 6] = {
    const fn codes(kind: Kind, double: bool) -> (LoadDtype, Option<Scheme>) {
        let block = 64;
        (LoadDtype::F32, Some(Scheme { kind, double, block }))
    }
    [
        (LoadDtype::F32, None),
        (LoadDtype::Bf16, None),
        codes(Kind::Nf4, false),
        codes(Kind::Nf4, true),
        codes(Kind::Fp4, false),
        codes(Kind::Int8, false),
    ]
};

impl Held {
    /// The model on one and the same device.
    pub fn load(&self, device: &Device) -> Model {
        let load = || {
            let model = Model::load_quantized(&fixture(self.name), self.dtype, self.scheme, device).unwrap();
            model.computing_in(FloatDType::F32)
        };
        self.loaded.borrow_mut().get_or_insert_with(load).clone()
    }

    /// Difference of logits that rounding changed matrices to the stored type explains.
    pub fn rounding(&self) -> f32 {
        match self.dtype {
            LoadDtype::Bf16 => 5e-2,
            _ => 0.0,
        }
    }

    /// The same for methods that change the base's matrices at the start.
    pub fn rounding_at_start(&self, what: &str) -> f32 {
        if what.contains("olora") { self.rounding() } else { 0.0 }
    }
}

/// Every method on every base in every storage, with its options for messages.
pub fn each(law: impl FnMut(&str, &Held, bool, &PeftConfig)) {
    each_on(&BASES, law);
}

/// Every method on these bases in every storage.
pub fn each_on(bases: &[&'static str], mut law: impl FnMut(&str, &Held, bool, &PeftConfig)) {
    for name in bases.iter().copied() {
        for (dtype, scheme) in STORAGES {
            let held = Held {
                name,
                dtype,
                scheme,
                loaded: RefCell::default(),
            };
            for (options, identity) in METHODS {
                if options.contains("bitfit") && UNBIASED.contains(&name) {
                    continue;
                }
                let what = match scheme {
                    None => format!("{options} on {name} in {dtype:?}"),
                    Some(scheme) => format!("{options} on {name} in {scheme}"),
                };
                law(&what, &held, *identity, &config(options));
            }
        }
    }
}
