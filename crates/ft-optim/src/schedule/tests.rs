use serde_json::{Map, Value, json};

use super::{Schedule, Span};
use crate::Error;

const CURVES: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../tests/fixtures/lr_schedules.json"
));
const MORE: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../tests/fixtures/optim/schedules.json"
));

fn schedule(kind: &str, warmup: u64, options: &str) -> Schedule {
    let mut table: Map<String, Value> = serde_json::from_str(options).unwrap();
    table.insert("kind".into(), kind.into());
    table.insert("warmup".into(), warmup.into());
    serde_json::from_value(table.into()).unwrap()
}

fn assert_curve(name: &str, schedule: &Schedule, base: f64, total: u64, expected: &Value) {
    schedule.check(base, total).unwrap();
    let expected: Vec<f64> = serde_json::from_value(expected.clone()).unwrap();
    assert_eq!(expected.len() as u64, total + 1, "{name}");
    for (step, expected) in expected.iter().enumerate() {
        let got = schedule.lr(base, step as u64, total);
        assert!(
            (got - expected).abs() < 1e-14 * base.max(1.0),
            "{name}, step {step}: {got}, expected {expected}"
        );
    }
}

#[test]
fn the_thirteen_curves() {
    let curves: Map<String, Value> = serde_json::from_str(CURVES).unwrap();
    assert_eq!(curves.len(), 13);
    for (name, curve) in &curves {
        let (kind, options) = name.split_at(name.find('{').unwrap_or(name.len()));
        let warmup = if kind == "constant" { 0 } else { 10 };
        let options = if options.is_empty() { "{}" } else { options };
        assert_curve(name, &schedule(kind, warmup, options), 1.0, 100, curve);
    }
}

#[test]
fn other_options() {
    let cases: Vec<Value> = serde_json::from_str(MORE).unwrap();
    for case in &cases {
        let options = case["options"].to_string();
        let schedule = schedule(
            case["kind"].as_str().unwrap(),
            case["warmup"].as_u64().unwrap(),
            &options,
        );
        let (base, total) = (case["base"].as_f64().unwrap(), case["total"].as_u64().unwrap());
        assert_curve(
            &format!("{} {options}", case["kind"]),
            &schedule,
            base,
            total,
            &case["curve"],
        );
    }
}

#[test]
fn every_kind_is_in_a_golden_curve() {
    for kind in Schedule::KINDS {
        let golden = CURVES.contains(&format!("\"{kind}"));
        assert!(golden, "no curve of {kind}");
        let read: Schedule = serde_json::from_value(json!({ "kind": kind })).unwrap();
        assert_eq!(read.kind(), *kind);
    }
}

#[test]
fn warmup_is_a_count_or_a_share() {
    let warmup = |text: &str| toml::from_str::<Schedule>(&format!("kind = \"cosine\"\nwarmup = {text}"));
    let steps = |text: &str, total| warmup(text).unwrap().warmup_steps(total);
    assert_eq!(steps("10", 100), 10);
    assert_eq!(steps("1", 100), 1);
    assert_eq!(steps("0.03", 100), 3);
    assert_eq!(steps("0.03", 101), 4, "rounded up, as the Trainer does");
    assert_eq!(steps("0.0", 100), 0);
    for bad in ["-1", "-0.1", "1.0", "1.5", "nan", "inf", "\"10\""] {
        let error = warmup(bad).unwrap_err().to_string();
        assert!(error.contains("steps, or a share"), "{bad}: {error}");
    }
}

#[test]
fn no_kind_is_linear_without_warmup() {
    let read: Schedule = toml::from_str("").unwrap();
    assert_eq!(read, Schedule::default());
    assert_eq!(read.kind(), "linear");
    assert_eq!(read.lr(2.0, 0, 10), 2.0);
    assert_eq!(read.lr(2.0, 10, 10), 0.0);
    let warm: Schedule = toml::from_str("warmup = 4").unwrap();
    assert_eq!(warm.lr(2.0, 0, 10), 0.0);
    assert_eq!(warm.lr(2.0, 1, 10), 0.5);
}

#[test]
fn config_round_trips_and_names_unknown_keys() {
    let text = "kind = \"warmup_stable_decay\"\nwarmup = 0.05\nnum_decay_steps = 30\ndecay_type = \"1-sqrt\"\n";
    let read: Schedule = toml::from_str(text).unwrap();
    let again: Schedule = toml::from_str(&toml::to_string(&read).unwrap()).unwrap();
    assert_eq!(read, again);
    assert_eq!(again.warmup_steps(100), 5);

    let error = toml::from_str::<Schedule>("kind = \"linear\"\npower = 2")
        .unwrap_err()
        .to_string();
    assert!(error.contains("power") && error.contains("warmup"), "{error}");
    let error = toml::from_str::<Schedule>("kind = \"cosin\"").unwrap_err().to_string();
    assert!(error.contains("cosin") && error.contains("inverse_sqrt"), "{error}");
}

#[test]
fn problems_are_collected_and_name_their_keys() {
    let keys = |text: &str, total| match toml::from_str::<Schedule>(text).unwrap().check(1e-3, total) {
        Err(Error::Options(problems)) => problems.into_iter().map(|p| p.key).collect::<Vec<_>>(),
        other => panic!("{text}: {other:?}"),
    };
    assert_eq!(keys("warmup = 101", 100), ["schedule.warmup"]);
    let both = "kind = \"cosine\"\nnum_cycles = -1.0\nmin_lr = 0.1\nmin_lr_rate = 2.0";
    let expected = [
        "schedule.num_cycles",
        "schedule.min_lr",
        "schedule.min_lr",
        "schedule.min_lr_rate",
    ];
    assert_eq!(keys(both, 100), expected);
    assert_eq!(
        keys("kind = \"polynomial\"\nlr_end = 0.1\npower = nan", 100),
        ["schedule.power", "schedule.lr_end"]
    );
    assert_eq!(
        keys("kind = \"inverse_sqrt\"\ntimescale = 0", 100),
        ["schedule.timescale"]
    );
    assert_eq!(
        keys("kind = \"cosine_with_restarts\"\nnum_cycles = 0", 100),
        ["schedule.num_cycles"]
    );
    let long = "kind = \"warmup_stable_decay\"\nwarmup = 60\nnum_decay_steps = 60";
    assert_eq!(keys(long, 100), ["schedule.num_decay_steps"]);
    toml::from_str::<Schedule>(long).unwrap().check(1e-3, 120).unwrap();
}

/// Whatever the options, a checked schedule gives a usable rate in every step.
#[test]
fn rates_are_finite_and_not_negative() {
    for kind in Schedule::KINDS {
        for (warmup, total) in [
            (json!(0), 1),
            (json!(1), 1),
            (json!(5), 5),
            (json!(0.5), 7),
            (json!(0), 0),
        ] {
            let schedule: Schedule = serde_json::from_value(json!({ "kind": kind, "warmup": warmup })).unwrap();
            schedule
                .check(1e-3, total)
                .unwrap_or_else(|e| assert!(*kind == "warmup_stable_decay", "{kind}: {e}"));
            for step in 0..=total {
                let lr = schedule.lr(1e-3, step, total);
                assert!(
                    (0.0..=1e-3).contains(&lr),
                    "{kind}, warmup {warmup}, step {step} of {total}: {lr}"
                );
            }
        }
    }
}

#[test]
fn schema_lists_every_kind_and_closes_every_table() {
    let schema = serde_json::to_value(schemars::schema_for!(Schedule)).unwrap();
    let kinds = schema["oneOf"].as_array().unwrap();
    let name = |kind: &serde_json::Value| {
        let kind = &kind["properties"]["kind"];
        kind["const"].as_str().or(kind["enum"][0].as_str()).unwrap().to_owned()
    };
    assert_eq!(kinds.iter().map(name).collect::<Vec<_>>(), Schedule::KINDS);
    let constant = &kinds[1]["properties"]["kind"]["enum"];
    assert_eq!(*constant, json!(["constant", "constant_with_warmup"]));
    for (index, kind) in kinds.iter().enumerate() {
        assert_eq!(kind["additionalProperties"], json!(false), "{kind}");
        let required = kind["required"].as_array().unwrap().contains(&json!("kind"));
        assert_eq!(required, index > 0, "only the first kind may go unnamed");
        assert!(kind["properties"]["warmup"]["description"].is_string(), "{kind}");
    }
}

#[test]
fn spans_print_as_typed() {
    assert_eq!(Span::Steps(10).to_string(), "10");
    assert_eq!(Span::Share(0.03).to_string(), "0.03");
}
