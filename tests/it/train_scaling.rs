//! Runs with activations in f16: the loss is scaled, and a scale that is too large costs steps and nothing else.

use ft_train::{Event, FitOptions, fit};

use crate::train_support::Workshop;

const F16: [&str; 3] = ["model.compute=f16", "train.steps=6", "train.save_every=3"];

#[test]
fn f16_learns_what_f32_learns_and_resumes_to_the_same_bytes() {
    let workshop = Workshop::new();
    let whole = workshop.fit("whole", &F16).unwrap();
    workshop.fit_until("parts", &F16, 3);
    workshop.resume("parts", &F16).unwrap();
    assert_eq!(workshop.result("whole", 6), workshop.result("parts", 6));
    assert_eq!(workshop.curve("whole"), workshop.curve("parts"));

    let f32 = workshop.fit("f32", &["train.steps=6"]).unwrap();
    let (before, half, full) = (
        f32.before.unwrap().loss,
        whole.after.unwrap().loss,
        f32.after.unwrap().loss,
    );
    assert!(
        half < before && (half - full).abs() < 0.05 * (before - full),
        "{before}: {half} in f16, {full} in f32"
    );
    let logged = |out: &str| workshop.metrics(out).iter().any(|line| line["loss_scale"] == 65_536.0);
    assert!(logged("whole") && !logged("f32"));
}

#[test]
fn a_scale_that_overflows_is_halved_until_steps_are_taken() {
    let workshop = Workshop::new();
    let first = (1u64 << 40) as f64;
    let sets = [
        "model.compute=f16",
        "train.loss_scale=1099511627776",
        "train.steps=40",
        "train.eval_every=40",
    ];
    let mut options = FitOptions::default();
    let (send, told) = std::sync::mpsc::channel();
    options.on_event = Box::new(move |event| {
        if let Event::Warning(text) = event {
            let _ = send.send(text.clone());
        }
    });
    let outcome = fit(workshop.plan("out", &sets).unwrap(), options).unwrap();
    let told = told.try_iter().filter(|text| text.contains("left f16")).count() as u64;
    let metrics = workshop.metrics("out");
    let last = metrics.iter().rfind(|line| line["loss_scale"].is_number()).unwrap();
    let overflows = last["overflows"].as_u64().unwrap();
    assert!(overflows > 3 && overflows < 36, "{last}");
    assert_eq!(last["loss_scale"].as_f64().unwrap(), first / (overflows as f64).exp2());
    assert_eq!(told, overflows);
    assert!(outcome.after.unwrap().loss < outcome.before.unwrap().loss);
}

#[test]
fn a_scale_that_is_no_power_of_two_is_refused() {
    let workshop = Workshop::new();
    let message = workshop
        .plan("out", &["train.loss_scale=1000"])
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("train.loss_scale: 1000 must be a power of two"),
        "{message}"
    );
}
