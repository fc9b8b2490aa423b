//! Updates that wait for each other while a module is mapped, so that a graphics card gets few launches for all of them.

use burn::module::ParamId;
use burn::optim::DynState;
use burn::tensor::kind::BridgeTensor;
use burn::tensor::{DType, Tensor};
use ft_kernels::{ManyAdamW, ManyAdamW8bit, Updated8bit, UpdatedAdamW};

use crate::optimizers::{AdamW, AdamW8bit, AdamWState, State8bit, no_coded};

/// An update rule that kernels have for many parameters, whose state is that of the rule of the same name.
pub(crate) enum ManyRule {
    /// At this share of the learning rate.
    AdamW(AdamW, f64),
    /// Moments in f32 or in codes, as the rule says.
    AdamW8bit(AdamW8bit),
}

/// The updates that wait. What it gives is what each rule gives alone, to the bit.
pub(crate) struct Together {
    plain: ManyAdamW,
    plain_places: Vec<Place<UpdatedAdamW>>,
    coded: ManyAdamW8bit,
    coded_places: Vec<Place<Updated8bit>>,
}

/// Whose update it is, and what takes it out of all that were made.
struct Place<U> {
    path: String,
    id: ParamId,
    take: Take<U>,
}

type Take<U> = Box<dyn FnOnce(&mut U) -> (BridgeTensor, DynState)>;

/// A parameter after its update.
pub(crate) struct Updated {
    pub path: String,
    pub id: ParamId,
    pub value: BridgeTensor,
    pub state: DynState,
}

const ORDER: &str = "taken in the order in which they were pushed";

impl Together {
    pub fn new() -> Self {
        Self {
            plain: ManyAdamW::default(),
            plain_places: vec![],
            coded: no_coded(),
            coded_places: vec![],
        }
    }

    /// Whether a parameter of this type with such a gradient can be updated together with the others.
    pub fn takes<const D: usize>(&self, param: DType, grad: &Tensor<D>) -> bool {
        self.plain.takes(param, grad) && self.coded.takes(param, grad)
    }

    /// Puts an update to the others.
    pub fn push<const D: usize>(
        &mut self,
        rule: &ManyRule,
        lr: f64,
        (path, id): (String, ParamId),
        [param, grad]: [Tensor<D>; 2],
        state: Option<DynState>,
    ) {
        match rule {
            ManyRule::AdamW(rule, share) => {
                let state = state.map(DynState::downcast::<AdamWState<D>>);
                self.push_plain(rule, lr * share, (path, id), [param, grad], state, |state| state);
            }
            ManyRule::AdamW8bit(rule) => match rule.start(&param, state.map(DynState::downcast)) {
                State8bit::Full(state) => {
                    self.push_plain(&rule.rule, lr, (path, id), [param, grad], Some(state), State8bit::Full);
                }
                State8bit::Coded(state) => {
                    let finish = rule.push(&mut self.coded, lr, param, grad, state);
                    let take = move |all: &mut Updated8bit| {
                        let (value, state) = finish(all.take::<D>().expect(ORDER));
                        (value.into_bridge(), DynState::create(State8bit::<D>::Coded(state), D))
                    };
                    let take = Box::new(take);
                    self.coded_places.push(Place { path, id, take });
                }
            },
        }
    }

    fn push_plain<const D: usize, S: Send + Sync + 'static>(
        &mut self,
        rule: &AdamW,
        lr: f64,
        (path, id): (String, ParamId),
        [param, grad]: [Tensor<D>; 2],
        state: Option<AdamWState<D>>,
        stored: fn(AdamWState<D>) -> S,
    ) {
        let state = state.unwrap_or_else(|| AdamWState::zero(&param));
        let step = state.step + 1;
        let moments = [state.exp_avg, state.exp_avg_sq];
        self.plain.push(param, grad, moments, rule.numbers(lr, step));
        let take = move |all: &mut UpdatedAdamW| {
            let (value, [exp_avg, exp_avg_sq]) = all.take::<D>().expect(ORDER);
            let state = AdamWState {
                step,
                exp_avg,
                exp_avg_sq,
            };
            (value.into_bridge(), DynState::create(stored(state), D))
        };
        let take = Box::new(take);
        self.plain_places.push(Place { path, id, take });
    }

    /// Makes all updates.
    pub fn update(self) -> Vec<Updated> {
        let (mut plain, mut coded) = (self.plain.update(), self.coded.update());
        let plain = self.plain_places.into_iter().map(|place| place.updated(&mut plain));
        let coded = self.coded_places.into_iter().map(|place| place.updated(&mut coded));
        plain.chain(coded).collect()
    }
}

impl<U> Place<U> {
    fn updated(self, all: &mut U) -> Updated {
        let (value, state) = (self.take)(all);
        Updated {
            path: self.path,
            id: self.id,
            value,
            state,
        }
    }
}
