use burn::optim::{GradientsParams, ModuleOptimizer, Optimizer, RecordState, StateSink, StateSource};
use burn::tensor::{DType, Device, Tensor, TensorData};
use serde_json::{Value, json};

use super::{AdamW, AdamWConfig, AdamWState, OptimConfig};
use crate::tests::{Pair, bits, floats};
use crate::{Error, Optim};

const GOLDEN: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../tests/fixtures/optim/adamw.json"
));
const RULES: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../tests/fixtures/optim/rules.json"
));

fn config(options: &Value) -> OptimConfig {
    serde_json::from_value(options.clone()).unwrap()
}

#[test]
fn defaults() {
    let read: OptimConfig = toml::from_str("").unwrap();
    assert_eq!(read, OptimConfig::default());
    assert_eq!(read.kind(), "adamw");
    let expected = AdamWConfig {
        lr: 2e-4,
        weight_decay: 0.01,
        betas: [0.9, 0.999],
        eps: 1e-8,
        clip: 1.0,
    };
    assert_eq!(read, OptimConfig::AdamW(expected));
    assert_eq!((read.lr(), read.clip()), (2e-4, Some(1.0)));
    assert_eq!(toml::from_str::<OptimConfig>("clip = 0").unwrap().clip(), None);
}

#[test]
fn config_round_trips_and_names_unknown_keys() {
    let text = "kind = \"adamw\"\nlr = 1\nbetas = [0.8, 0.95]\n";
    let read: OptimConfig = toml::from_str(text).unwrap();
    assert_eq!(read.lr(), 1.0);
    let again: OptimConfig = toml::from_str(&toml::to_string(&read).unwrap()).unwrap();
    assert_eq!(read, again);
    let error = toml::from_str::<OptimConfig>("learning_rate = 1e-3")
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("learning_rate") && error.contains("weight_decay"),
        "{error}"
    );
    let error = toml::from_str::<OptimConfig>("kind = \"adam\"")
        .unwrap_err()
        .to_string();
    assert!(error.contains("`adam`") && error.contains("`adamw`"), "{error}");
}

#[test]
fn values_out_of_range_are_all_named() {
    let config: OptimConfig =
        toml::from_str("lr = -1.0\nweight_decay = nan\nbetas = [0.9, 1.0]\neps = inf\nclip = -1").unwrap();
    let Err(Error::Options(problems)) = config.check() else {
        panic!("accepted")
    };
    let keys: Vec<_> = problems.iter().map(|p| p.key.as_str()).collect();
    assert_eq!(
        keys,
        [
            "optim.lr",
            "optim.weight_decay",
            "optim.betas",
            "optim.eps",
            "optim.clip"
        ]
    );
    assert!(Optim::new(&config).is_err());
    let text = config.check().unwrap_err().to_string();
    assert!(
        text.contains("`optim.lr` is -1, expected a number of at least 0"),
        "{text}"
    );
}

#[test]
fn schema_is_closed_and_described() {
    let schema = serde_json::to_value(schemars::schema_for!(OptimConfig)).unwrap();
    let adamw = &schema["oneOf"][0];
    for shape in schema["oneOf"].as_array().unwrap() {
        assert_eq!(shape["additionalProperties"], json!(false), "{shape}");
        assert!(shape["properties"]["kind"]["const"].is_string(), "{shape}");
    }
    assert_eq!(adamw["required"], json!([]), "{schema}");
    for key in ["lr", "weight_decay", "betas", "eps", "clip"] {
        assert!(adamw["properties"][key]["description"].is_string(), "{key}: {schema}");
        assert!(!adamw["properties"][key]["default"].is_null(), "{key}: {schema}");
    }
}

/// Ten steps in two groups, every tensor after every step. f64 parameters take the path made of
/// Burn operations, f32 ones the fused CPU pass.
fn follow_golden(dtype: DType, golden: &str) {
    let cases: Vec<Value> = serde_json::from_str(golden).unwrap();
    for case in &cases {
        let device = Device::flex().autodiff();
        let mut optim = Optim::new(&config(&case["options"])).unwrap();
        let mut pair = Pair::new(&case["start"], &device, dtype);
        for (index, step) in case["steps"].as_array().unwrap().iter().enumerate() {
            let grads = pair.grads(&step["grads"]);
            pair = optim.step(step["lr"].as_f64().unwrap(), pair, grads);
            let at = format!("{dtype:?}, {}, step {index}", case["options"]);
            close(&pair.weight.to_data(), &step["after"]["weight"], &at);
            close(&pair.norm.weight.to_data(), &step["after"]["norm"], &at);
            for (name, data) in optim.state_dict(&pair) {
                let (path, leaf) = name.rsplit_once('.').unwrap();
                let key = if path == "weight" { "weight" } else { "norm" };
                match leaf {
                    "step" => assert_eq!(data.try_to_vec::<i64>().unwrap(), [index as i64 + 1], "{at}"),
                    _ => {
                        let expected = &step[leaf][key];
                        assert!(expected.is_array(), "{at}: torch keeps no {leaf} for {key}");
                        close(&data, expected, &format!("{at}, {leaf}"));
                    }
                }
            }
        }
    }
}

/// Within a few roundings of f32, of the value itself or of the tensor's largest, from which cancellation made it.
fn close(got: &TensorData, expected: &Value, at: &str) {
    let got = got.clone().convert::<f32>().try_to_vec::<f32>().unwrap();
    let expected = floats(expected);
    assert_eq!(got.len(), expected.len());
    let largest = expected.iter().fold(0f32, |a, b| a.max(b.abs()));
    for (got, expected) in got.iter().zip(&expected) {
        let allowed = 1e-6 * expected.abs() + 1e-7 * largest;
        assert!((got - expected).abs() <= allowed, "{at}: {got}, expected {expected}");
    }
}

#[test]
fn adamw_is_torchs_fused() {
    follow_golden(DType::F32, GOLDEN);
}

#[test]
fn adamw_is_torchs_in_burn_operations() {
    follow_golden(DType::F64, GOLDEN);
}

/// SGD, Muon, Adafactor and Lion.
#[test]
fn the_others_are_torchs_and_transformers_fused() {
    follow_golden(DType::F32, RULES);
}

#[test]
fn the_others_are_torchs_and_transformers_in_burn_operations() {
    follow_golden(DType::F64, RULES);
}

/// The same update rule under Burn's driver, its groups standing in for ours.
#[test]
fn works_in_burns_module_optimizer() {
    let case = &serde_json::from_str::<Vec<Value>>(GOLDEN).unwrap()[1];
    let OptimConfig::AdamW(options) = config(&case["options"]) else {
        panic!("adamw is the default")
    };
    let rule = |weight_decay| AdamW {
        betas: options.betas,
        eps: options.eps,
        weight_decay,
    };
    let norm = burn::module::ParamGroup::from_predicate("norm");
    let mut theirs = ModuleOptimizer::from(rule(options.weight_decay)).with_group(norm, rule(0.0), None);
    let mut ours = Optim::new(&config(&case["options"])).unwrap();

    let start = |_| Pair::new(&case["start"], &Device::flex().autodiff(), DType::F32);
    let [mut a, mut b] = [0, 1].map(start);
    for step in case["steps"].as_array().unwrap() {
        let (lr, grads): (f64, [GradientsParams; 2]) = (
            step["lr"].as_f64().unwrap(),
            [&a, &b].map(|pair| pair.grads(&step["grads"])),
        );
        let [ga, gb] = grads;
        a = ours.step(lr, a, ga);
        b = theirs.step(lr, b, gb);
        let record = theirs.to_record();
        theirs = theirs.load_record(record);
    }
    assert_eq!(bits(&a), bits(&b));
}

#[test]
fn record_round_trips_to_the_bit() {
    let device = Device::flex();
    let param = Tensor::<2>::from_floats([[1.0, -2.5, 3e-20]], &device);
    let grad = Tensor::<2>::from_floats([[1e-30, 7.7, -0.0]], &device);
    let rule = AdamW {
        betas: [0.9, 0.999],
        eps: 1e-8,
        weight_decay: 0.01,
    };
    let (_, state) = rule.step(0.1, param, grad, None);
    let state = state.unwrap();

    let mut sink = StateSink::default();
    state.state_flatten("a.b", &mut sink);
    let names: Vec<_> = sink.tensors.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["a.b.exp_avg", "a.b.exp_avg_sq"]);
    let mut source = StateSource::new(sink.scalars.into_iter().collect());
    sink.tensors
        .into_iter()
        .for_each(|(name, data)| source.insert_tensor(name, data));
    let again = AdamWState::<2>::state_unflatten("a.b", &mut source, &device).unwrap();
    assert_eq!(again.step, 1);
    assert_eq!(again.exp_avg.to_data().bytes(), state.exp_avg.to_data().bytes());
    assert_eq!(again.exp_avg_sq.to_data().bytes(), state.exp_avg_sq.to_data().bytes());
    assert!(AdamWState::<2>::state_unflatten("a.c", &mut source, &device).is_none());
}
