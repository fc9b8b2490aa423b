use burn::tensor::{DType, Device, TensorData};

use super::{Net, bits};
use crate::{
    Error, Mismatch, Optim, OptimConfig, Schedule, load_trainable_tensors, named_parameters, scale_and_clip,
    trainable_tensors,
};

type Saved = Vec<(String, TensorData)>;

fn train(mut net: Net, optim: &mut Optim, steps: std::ops::Range<u64>) -> Net {
    let device = Device::flex().autodiff();
    let schedule: Schedule = toml::from_str("kind = \"cosine\"\nwarmup = 2").unwrap();
    for step in steps {
        let (grads, _) = scale_and_clip(&net, net.grads(step, &device), 0.1, Some(1.0));
        net = optim.step(schedule.lr(0.05, step, 5), net, grads);
    }
    net
}

fn new() -> Optim {
    Optim::new(&OptimConfig::default()).unwrap()
}

fn names(saved: &Saved) -> Vec<&str> {
    saved.iter().map(|(name, _)| name.as_str()).collect()
}

fn bytes(saved: &Saved) -> Vec<(&str, &[u8])> {
    saved
        .iter()
        .map(|(name, data)| (name.as_str(), &data.bytes()[..]))
        .collect()
}

/// Two steps, another model object (other parameter ids, other trained values, the same constants), three more steps:
/// as five at once, to the bit.
#[test]
fn two_and_three_are_five() {
    let device = Device::flex().autodiff();
    let mut optim = new();
    let five = train(Net::new(1, &device), &mut optim, 0..5);
    let five_state = optim.state_dict(&five);

    let mut optim = new();
    let two = train(Net::new(1, &device), &mut optim, 0..2);
    let (weights, state) = (trainable_tensors(&two), optim.state_dict(&two));
    drop((two, optim));

    let other = train(Net::new(1, &device), &mut new(), 3..4);
    let net = load_trainable_tensors(other, weights).unwrap();
    let mut optim = new();
    optim.load_state_dict(&net, state.clone()).unwrap();
    assert_eq!(
        bytes(&optim.state_dict(&net)),
        bytes(&state),
        "a state just loaded saves as it was"
    );
    let net = train(net, &mut optim, 2..5);
    assert_eq!(bits(&net), bits(&five));
    assert_eq!(bytes(&optim.state_dict(&net)), bytes(&five_state));
}

#[test]
fn names_are_paths_and_bytes_are_as_planned() {
    let device = Device::flex().autodiff();
    let mut optim = new();
    let net = train(Net::new(1, &device), &mut optim, 0..1);
    let saved = optim.state_dict(&net);
    let first = [
        "embed.exp_avg",
        "embed.exp_avg_sq",
        "embed.step",
        "layers.0.delta.a.exp_avg",
    ];
    assert_eq!(names(&saved)[..4], first);
    assert_eq!((saved[2].1.shape().to_vec(), saved[2].1.dtype()), (vec![], DType::I64));
    assert_eq!(saved[2].1.try_to_vec::<i64>().unwrap(), [1]);

    let planned: usize = named_parameters(&net)
        .iter()
        .flat_map(|p| OptimConfig::default().state(&p.path, &p.shape))
        .map(|t| t.bytes())
        .sum();
    assert_eq!(planned, saved.iter().map(|(_, data)| data.bytes().len()).sum::<usize>());
}

#[test]
fn parameters_without_updates_are_saved_as_such() {
    let device = Device::flex().autodiff();
    let net = Net::new(1, &device);
    let empty = new().state_dict(&net);
    assert!(
        empty
            .iter()
            .all(|(name, data)| name.ends_with(".step") && data.try_to_vec::<i64>().unwrap() == [0])
    );
    assert_eq!(empty.len(), named_parameters(&net).len());

    let mut optim = new();
    let net = train(net, &mut optim, 0..1);
    optim.load_state_dict(&net, empty.clone()).unwrap();
    assert_eq!(bytes(&optim.state_dict(&net)), bytes(&empty));
}

#[test]
fn a_foreign_state_is_refused_whole() {
    let device = Device::flex().autodiff();
    let mut optim = new();
    let net = train(Net::new(1, &device), &mut optim, 0..2);
    let good = optim.state_dict(&net);
    let mut bad = good.clone();
    bad[0].1 = TensorData::new(vec![0f32; 4], [4]); // embed.exp_avg
    bad[2].1 = TensorData::new(vec![-1i64], [0usize; 0]); // embed.step
    bad[5].1 = TensorData::new(vec![2f32], [1]); // layers.0.delta.a.step
    bad.remove(7); // layers.0.delta.b.exp_avg_sq
    bad.push(("layers.7.proj.exp_avg".into(), TensorData::new(vec![0f32], [1])));

    let Err(Error::Tensors { mismatches, .. }) = optim.load_state_dict(&net, bad) else {
        panic!("accepted")
    };
    let form = |name: &str, expected: (&[usize], DType), found: (&[usize], DType)| Mismatch::Form {
        name: name.into(),
        expected: (expected.0.to_vec(), expected.1),
        found: (found.0.to_vec(), found.1),
    };
    let expected = [
        form("layers.0.delta.a.step", (&[], DType::I64), (&[1], DType::F32)),
        Mismatch::Missing("layers.0.delta.b.exp_avg_sq".into()),
        Mismatch::Unexpected("embed.exp_avg".into()),
        Mismatch::Unexpected("embed.exp_avg_sq".into()),
        Mismatch::Unexpected("layers.7.proj.exp_avg".into()),
    ];
    assert_eq!(mismatches, expected);
    assert_eq!(
        bytes(&optim.state_dict(&net)),
        bytes(&good),
        "the present state is kept"
    );

    let mut misshapen = good.clone();
    misshapen[0].1 = TensorData::new(vec![0f32; 4], [4]);
    let text = new().load_state_dict(&net, misshapen).unwrap_err().to_string();
    assert!(text.contains("optimizer state does not fit"), "{text}");
    assert!(
        text.contains("`embed.exp_avg` is F32 [4], expected F32 [6, 4]"),
        "{text}"
    );
    assert!(
        new().load_state_dict(&net, vec![]).is_err(),
        "an empty file is no state"
    );
}
