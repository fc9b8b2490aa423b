//! The dual of GEM's projection: a quadratic program in as many unknowns as there are past tasks.
//!
//! ```text
//! minimize  1/2 v'Pv + q'v   subject to  v >= m            P = GG', q = Gg   (Lopez-Paz and Ranzato 2017, eq. 10 and 11)
//! u = v - m:  1/2 u'Pu + (q + Pm)'u,  u >= 0
//! ```
//!
//! Solved exactly by the active-set method of Lawson and Hanson ("Solving Least Squares Problems", 1974, chapter 23) on the normal
//! equations, in f64.

/// The multipliers `[n]`, each at least `margin`, that minimize the program of the symmetric positive semidefinite `gram` `[n][n]`
/// and `products` `[n]`.
pub fn multipliers(gram: &[Vec<f64>], products: &[f64], margin: f64) -> Vec<f64> {
    let n = products.len();
    let scale = (0..n).map(|i| gram[i][i]).fold(0.0, f64::max).max(f64::MIN_POSITIVE);
    let tolerance = 1e-12 * (scale + products.iter().fold(0.0, |most: f64, q| most.max(q.abs())));
    // Downhill directions at u = 0.
    let shifted: Vec<f64> = (0..n)
        .map(|i| products[i] + margin * gram[i].iter().sum::<f64>())
        .collect();
    let mut u = vec![0.0; n];
    let mut free: Vec<usize> = Vec::new();
    // Every round frees one more; a set never comes back, so that the number of sets bounds them.
    for _ in 0..10 * (n + 1) * (n + 1) {
        let slope = |i: usize| -(shifted[i] + (0..n).map(|j| gram[i][j] * u[j]).sum::<f64>());
        let bound = (0..n).filter(|i| !free.contains(i));
        let steepest = bound.map(|i| (slope(i), i)).max_by(|a, b| a.0.total_cmp(&b.0));
        match steepest {
            Some((slope, i)) if slope > tolerance => free.push(i),
            _ => break,
        }
        while !free.is_empty() {
            let target = solve(gram, &shifted, &free, scale);
            if target.iter().all(|x| *x > 0.0) {
                u = vec![0.0; n];
                free.iter().zip(&target).for_each(|(i, x)| u[*i] = *x);
                break;
            }
            // As far as the first one that would become negative; it is bound again.
            let share = |(i, x): (&usize, &f64)| if *x <= 0.0 { u[*i] / (u[*i] - x) } else { f64::INFINITY };
            let far = free.iter().zip(&target).map(share).fold(1.0, f64::min);
            free.iter().zip(&target).for_each(|(i, x)| u[*i] += far * (x - u[*i]));
            let before = free.len();
            free.retain(|i| u[*i] > 1e-15);
            if free.len() == before {
                // Rounding kept the smallest above zero.
                let least = (0..before).min_by(|a, b| u[free[*a]].total_cmp(&u[free[*b]]));
                least.map(|at| free.remove(at));
            }
            (0..n).filter(|i| !free.contains(i)).for_each(|i| u[i] = 0.0);
        }
    }
    u.into_iter().map(|u| u + margin).collect()
}

/// Where the gradient over the free unknowns is zero: `P_ff u_f = -c_f`, by Cholesky's decomposition.
fn solve(gram: &[Vec<f64>], shifted: &[f64], free: &[usize], scale: f64) -> Vec<f64> {
    let n = free.len();
    let mut lower = vec![vec![0.0; n]; n];
    for i in 0..n {
        for j in 0..=i {
            let inner: f64 = (0..j).map(|k| lower[i][k] * lower[j][k]).sum();
            let rest = gram[free[i]][free[j]] - inner;
            lower[i][j] = match i == j {
                // Memories that say the same leave nothing on the diagonal.
                true => rest.max(1e-14 * scale).sqrt(),
                false => rest / lower[j][j],
            };
        }
    }
    let mut x: Vec<f64> = free.iter().map(|i| -shifted[*i]).collect();
    for i in 0..n {
        let inner: f64 = (0..i).map(|k| lower[i][k] * x[k]).sum();
        x[i] = (x[i] - inner) / lower[i][i];
    }
    for i in (0..n).rev() {
        let inner: f64 = (i + 1..n).map(|k| lower[k][i] * x[k]).sum();
        x[i] = (x[i] - inner) / lower[i][i];
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;

    fn golden() -> serde_json::Value {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../tests/fixtures/continual/projections.json"
        );
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    fn numbers(value: &serde_json::Value) -> Vec<f64> {
        value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
    }

    #[test]
    fn multipliers_are_those_of_quadprog() {
        let golden = golden();
        let cases = golden["cases"].as_array().unwrap();
        assert_eq!(cases.len(), 31);
        for case in cases {
            let diagonal = case["diagonal"].as_f64().unwrap();
            let mut gram: Vec<Vec<f64>> = case["gram"].as_array().unwrap().iter().map(numbers).collect();
            (0..gram.len()).for_each(|i| gram[i][i] += diagonal);
            let margin = case["margin"].as_f64().unwrap();
            let found = multipliers(&gram, &numbers(&case["products"]), margin);
            for (a, b) in found.iter().zip(numbers(&case["multipliers"])) {
                assert!((a - b).abs() < 1e-7 * b.abs().max(1.0), "{}: {a} and {b}", case["name"]);
            }
        }
    }

    /// The conditions of Karush, Kuhn and Tucker: no multiplier can be moved to make the program smaller.
    #[test]
    fn no_first_order_loss_rises() {
        let mut state = 1u64;
        let mut random = || {
            state = ft_data::sub_seed(state, "next");
            (state >> 11) as f64 / (1u64 << 53) as f64 - 0.5
        };
        for n in 1..=7 {
            for _ in 0..200 {
                let rows: Vec<Vec<f64>> = (0..n).map(|_| (0..4).map(|_| random()).collect()).collect();
                let g: Vec<f64> = (0..4).map(|_| random()).collect();
                let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
                let gram: Vec<Vec<f64>> = rows.iter().map(|a| rows.iter().map(|b| dot(a, b)).collect()).collect();
                let products: Vec<f64> = rows.iter().map(|a| dot(a, &g)).collect();
                let v = multipliers(&gram, &products, 0.0);
                let mut projected = g.clone();
                for (row, v) in rows.iter().zip(&v) {
                    projected.iter_mut().zip(row).for_each(|(x, r)| *x += v * r);
                }
                for (row, v) in rows.iter().zip(&v) {
                    let product = dot(row, &projected);
                    assert!(product > -1e-6, "{n} memories: {product}");
                    assert!(*v >= 0.0 && (v * product).abs() < 1e-5, "{v} times {product}");
                }
            }
        }
    }
}
