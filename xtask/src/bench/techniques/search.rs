//! The learning rate of a technique: steps of a factor until the best one has a worse neighbour on either side, then halves.

/// A rate that was tried, and the held-out loss of a short run at it; infinite where the run broke.
pub type Tried = (f64, f64);

/// Between neighbours of the first pass.
const FACTOR: f64 = 4.0;
/// Where a loss that only ever falls is given up: so many runs from the start.
const MOST: usize = 9;

/// Calls `loss` until the best rate is bracketed at a factor of 4, then tries twice and half of it. What was tried, by rate.
pub fn search(start: f64, mut loss: impl FnMut(f64) -> Result<f64, String>) -> Result<Vec<Tried>, String> {
    let mut tried: Vec<Tried> = Vec::new();
    let mut at = |rate: f64, tried: &mut Vec<Tried>| -> Result<(), String> {
        tried.push((rate, loss(rate)?));
        tried.sort_by(|a, b| a.0.total_cmp(&b.0));
        Ok(())
    };
    at(start, &mut tried)?;
    while let Some(rate) = outside(&tried) {
        if tried.len() == MOST {
            return Err(format!(
                "no learning rate between {:.1e} and {:.1e} is the best: the loss still falls at the edge",
                tried[0].0,
                tried[MOST - 1].0
            ));
        }
        at(rate, &mut tried)?;
    }
    let best = best(&tried);
    for rate in [best.0 / FACTOR.sqrt(), best.0 * FACTOR.sqrt()] {
        at(rate, &mut tried)?;
    }
    Ok(tried)
}

/// The rate with the lowest loss.
pub fn best(tried: &[Tried]) -> Tried {
    let least = tried.iter().min_by(|a, b| a.1.total_cmp(&b.1));
    *least.expect("something was tried")
}

/// What to try next where the best is at an edge: up first, since default rates are those of large models.
fn outside(tried: &[Tried]) -> Option<f64> {
    let best = best(tried).0;
    if best == tried[tried.len() - 1].0 {
        return Some(best * FACTOR);
    }
    (best == tried[0].0).then_some(best / FACTOR)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bowl over the logarithm of the rate that breaks above 1.
    fn bowl(least: f64) -> impl FnMut(f64) -> Result<f64, String> {
        move |rate| match rate > 1.0 {
            true => Ok(f64::INFINITY),
            false => Ok((rate / least).ln().powi(2)),
        }
    }

    #[test]
    fn the_best_rate_is_never_at_an_edge() {
        for least in [1e-5, 3e-4, 1e-3, 0.02, 0.3] {
            let tried = search(1e-3, bowl(least)).unwrap();
            let best = best(&tried).0;
            assert!(
                best > tried[0].0 && best < tried[tried.len() - 1].0,
                "{least}: {tried:?}"
            );
            assert!(
                (best / least).ln().abs() <= 2f64.sqrt().ln() + 1e-9,
                "{least}: {tried:?}"
            );
            assert!(tried.windows(2).all(|pair| pair[0].0 < pair[1].0));
        }
    }

    #[test]
    fn a_loss_that_only_falls_is_said_so() {
        let why = search(1e-3, |rate| Ok(-rate)).unwrap_err();
        assert!(why.contains("still falls"), "{why}");
        assert_eq!(search(1.0, |_| Err("broken".into())).unwrap_err(), "broken");
    }
}
