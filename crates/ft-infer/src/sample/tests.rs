use super::*;

/// The filters written down as transformers does it: full sorts over the whole vocabulary, in f64, no shortcuts.
fn oracle(logits: &[f32], config: &GenerationConfig) -> Vec<u32> {
    let mut scores: Vec<f64> = logits
        .iter()
        .map(|&logit| f64::from(logit / config.temperature as f32))
        .collect();
    let softmax = |scores: &[f64]| {
        let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - top).exp()).collect();
        let sum: f64 = weights.iter().sum();
        weights.into_iter().map(|weight| weight / sum).collect::<Vec<_>>()
    };
    if config.top_k > 0 {
        let mut sorted = scores.clone();
        sorted.sort_by(|a, b| b.total_cmp(a));
        let kth = sorted[config.top_k.min(sorted.len()) - 1];
        scores
            .iter_mut()
            .filter(|score| **score < kth)
            .for_each(|score| *score = f64::NEG_INFINITY);
    }
    if config.top_p < 1.0 {
        // Ascending; what lies at or below 1 - p of cumulated probability goes, the likeliest never does.
        let p = softmax(&scores);
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]).then(b.cmp(&a)));
        let mut cumulated = 0.0;
        for &id in &order[..order.len() - 1] {
            cumulated += p[id];
            if cumulated <= 1.0 - config.top_p {
                scores[id] = f64::NEG_INFINITY;
            }
        }
    }
    if config.min_p > 0.0 {
        let p = softmax(&scores);
        let least = p.iter().copied().fold(0.0, f64::max) * config.min_p;
        scores
            .iter_mut()
            .zip(&p)
            .filter(|(_, p)| **p < least)
            .for_each(|(score, _)| *score = f64::NEG_INFINITY);
    }
    (0..scores.len() as u32)
        .filter(|&id| scores[id as usize] > f64::NEG_INFINITY)
        .collect()
}

fn noise(n: usize, seed: u64, spread: f32) -> Vec<f32> {
    let mut rng = ft_data::stream(seed, "test");
    (0..n).map(|_| (unit(&mut rng) as f32 - 0.5) * spread).collect()
}

fn sampling(edit: impl FnOnce(&mut GenerationConfig)) -> GenerationConfig {
    let mut config = GenerationConfig {
        do_sample: true,
        top_k: 0,
        ..Default::default()
    };
    edit(&mut config);
    config
}

fn kept(logits: &[f32], config: &GenerationConfig) -> Vec<u32> {
    let mut ids: Vec<u32> = filter(logits, config).iter().map(|candidate| candidate.id).collect();
    ids.sort_unstable();
    ids
}

#[test]
fn the_filters_agree_with_a_straightforward_oracle() {
    let mut shrunk = 0;
    for seed in 0..40 {
        let logits = noise(
            [3, 50, 700, 5000][seed as usize % 4],
            seed,
            [4.0, 12.0, 40.0][seed as usize % 3],
        );
        for temperature in [0.5, 1.0, 1.7] {
            for (top_k, top_p, min_p) in [
                (0, 1.0, 0.0),
                (1, 1.0, 0.0),
                (7, 1.0, 0.0),
                (9000, 1.0, 0.0),
                (0, 0.01, 0.0),
                (0, 0.6, 0.0),
                (0, 0.98, 0.0),
                (0, 1.0, 0.05),
                (0, 1.0, 1.0),
                (40, 0.9, 0.02),
            ] {
                let config =
                    sampling(|c| (c.temperature, c.top_k, c.top_p, c.min_p) = (temperature, top_k, top_p, min_p));
                let ids = kept(&logits, &config);
                assert_eq!(ids, oracle(&logits, &config), "{config:?}, seed {seed}");
                assert!(!ids.is_empty());
                shrunk += usize::from(ids.len() < logits.len());
            }
        }
    }
    assert!(shrunk > 500, "the filters must have had something to do: {shrunk}");
}

#[test]
fn ties_of_the_kth_stay_and_banned_tokens_never_return() {
    let logits = [1.0, 3.0, 3.0, 2.0, 3.0, f32::NEG_INFINITY];
    assert_eq!(kept(&logits, &sampling(|c| c.top_k = 1)), [1, 2, 4]);
    assert_eq!(kept(&logits, &sampling(|c| c.top_k = 0)), [0, 1, 2, 3, 4]);
    assert_eq!(
        kept(&logits, &sampling(|c| c.top_p = 0.01)).len(),
        1,
        "the likeliest always stays"
    );
}

#[test]
fn draws_follow_the_distribution() {
    let logits: Vec<f32> = [0.5f32, 0.3, 0.15, 0.05].iter().map(|p| p.ln()).collect();
    let mut rng = ft_data::stream(9, "test");
    let mut counts = [0.0f64; 4];
    let n = 40_000;
    for _ in 0..n {
        counts[draw(&logits, &sampling(|_| ()), &mut rng).unwrap() as usize] += 1.0 / f64::from(n);
    }
    for (count, p) in counts.iter().zip([0.5, 0.3, 0.15, 0.05]) {
        // Five standard deviations of a frequency over 40 000 draws.
        assert!((count - p).abs() < 0.0125, "{counts:?}");
    }
}

#[test]
fn a_low_temperature_is_nearly_greedy_and_a_high_one_nearly_uniform() {
    let logits = noise(30, 1, 6.0);
    let mut rng = ft_data::stream(2, "test");
    let mut share = |temperature| {
        let config = sampling(|c| c.temperature = temperature);
        let hits = (0..2000)
            .filter(|_| draw(&logits, &config, &mut rng) == argmax(&logits))
            .count();
        hits as f64 / 2000.0
    };
    assert!(share(0.01) > 0.99);
    assert!(share(1000.0) < 0.06);
}

#[test]
fn rows_without_a_usable_logit_give_nothing() {
    let mut rng = ft_data::stream(2, "test");
    for bad in [
        vec![],
        vec![f32::NAN, 1.0],
        vec![1.0, f32::INFINITY],
        vec![f32::NEG_INFINITY; 3],
    ] {
        assert_eq!(draw(&bad, &sampling(|_| ()), &mut rng), None, "{bad:?}");
    }
    assert_eq!(argmax(&[1.0, f32::NAN]), None);
    assert_eq!(argmax(&[]), None);
    assert_eq!(argmax(&[1.0, 5.0, 5.0]), Some(1));
}

/// The golden file that `tests/fixtures/generate/generate.py` wrote with transformers' logits warpers.
#[test]
fn the_filters_leave_what_transformers_leaves() {
    let golden: serde_json::Value =
        serde_json::from_str(include_str!("../../../../tests/fixtures/generate/golden.json")).unwrap();
    let cases = golden["filters"].as_array().unwrap();
    assert_eq!(cases.len(), 72);
    for case in cases {
        let number = |key: &str| case[key].as_f64().unwrap();
        let logit = |i: f64| number("scale") * (37.0 * i * i + 11.0 * i).sin();
        let logits: Vec<f32> = (0..case["n"].as_u64().unwrap())
            .map(|i| logit(i as f64) as f32)
            .collect();
        let config = sampling(|c| {
            (c.temperature, c.top_p, c.min_p) = (number("temperature"), number("top_p"), number("min_p"));
            c.top_k = number("top_k") as usize;
        });
        let ids = kept(&logits, &config);
        assert_eq!(ids.len() as f64, number("kept"), "{case}");
        assert_eq!(f64::from(ids.iter().sum::<u32>()), number("id_sum"), "{case}");
        assert_eq!(serde_json::json!(ids[..ids.len().min(8)]), case["first"], "{case}");
    }
}
