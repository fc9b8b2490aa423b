//! Pictures of the table: points with their names, and lines.

use std::fmt::Write;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 460.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 44.0;
/// Height of a line of text.
const LINE: f64 = 12.0;

/// A named point; marked ones are drawn full.
pub struct Point<'a> {
    pub name: &'a str,
    pub x: f64,
    pub y: f64,
    pub marked: bool,
}

/// Points over a logarithmic axis x.
pub fn scatter(points: &[Point], x_label: &str, y_label: &str) -> String {
    let axes = Axes::around(points.iter().map(|p| (p.x, p.y)));
    let mut text = axes.begin(x_label, y_label);
    let mut taken: Vec<(f64, f64)> = Vec::new();
    for point in points {
        let (x, y) = axes.at(point.x, point.y);
        let class = if point.marked { "front" } else { "point" };
        let _ = writeln!(
            text,
            "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4.5\"><title>{}: {} {y_label}, {} {x_label}</title></circle>",
            escape(point.name),
            short(point.y),
            short(point.x)
        );
        let name_y = free(&taken, x, y + 4.0);
        taken.push((x, name_y));
        let _ = writeln!(
            text,
            "<text x=\"{:.1}\" y=\"{name_y:.1}\">{}</text>",
            x + 8.0,
            escape(point.name)
        );
    }
    text + "</svg>\n"
}

/// Lines over a linear (`log` false) or logarithmic axis x, each with its name at its end.
pub fn lines(named: &[(&str, Vec<(f64, f64)>)], log: bool, x_label: &str, y_label: &str) -> String {
    let all = named.iter().flat_map(|(_, points)| points.iter().copied());
    let mut axes = Axes::around(all.filter(|(_, y)| y.is_finite()));
    axes.log = log;
    let mut text = axes.begin(x_label, y_label);
    let mut taken: Vec<(f64, f64)> = Vec::new();
    for (at, (name, points)) in named.iter().enumerate() {
        let finite = points.iter().filter(|(_, y)| y.is_finite());
        let drawn: Vec<(f64, f64)> = finite.map(|(x, y)| axes.at(*x, *y)).collect();
        let Some((x, y)) = drawn.last() else { continue };
        let path: Vec<String> = drawn.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let hue = 360 * at / named.len();
        let _ = writeln!(
            text,
            "<polyline points=\"{}\" style=\"stroke:hsl({hue} 65% 48%)\"><title>{}</title></polyline>",
            path.join(" "),
            escape(name)
        );
        let name_y = free(&taken, *x, y + 4.0);
        taken.push((*x, name_y));
        let _ = writeln!(
            text,
            "<text class=\"end\" x=\"{:.1}\" y=\"{name_y:.1}\" style=\"fill:hsl({hue} 65% 40%)\">{}</text>",
            x - 4.0,
            escape(name)
        );
    }
    text + "</svg>\n"
}

/// The first height at or below `y` where no name stands nearby.
fn free(taken: &[(f64, f64)], x: f64, mut y: f64) -> f64 {
    while let Some((_, other)) = taken
        .iter()
        .find(|(tx, ty)| (tx - x).abs() < 130.0 && (ty - y).abs() < LINE - 1e-6)
    {
        y = other + LINE;
    }
    y
}

struct Axes {
    x: [f64; 2],
    y: [f64; 2],
    log: bool,
}

impl Axes {
    fn around(points: impl Iterator<Item = (f64, f64)>) -> Self {
        let (mut x, mut y) = ([f64::MAX, f64::MIN], [f64::MAX, f64::MIN]);
        for (px, py) in points {
            (x[0], x[1]) = (x[0].min(px), x[1].max(px));
            (y[0], y[1]) = (y[0].min(py), y[1].max(py));
        }
        let room = 0.06 * (y[1] - y[0]).max(1e-9);
        Self {
            x,
            y: [y[0] - room, y[1] + room],
            log: true,
        }
    }

    fn at(&self, x: f64, y: f64) -> (f64, f64) {
        let scale = |v: f64| if self.log { v.max(f64::MIN_POSITIVE).ln() } else { v };
        let (low, high) = (scale(self.x[0]), scale(self.x[1]));
        let share = (scale(x) - low) / (high - low).max(1e-9);
        // The last sixth is for names.
        let across = LEFT + 12.0 + share * (WIDTH - LEFT - RIGHT - 150.0);
        let down = (y - self.y[0]) / (self.y[1] - self.y[0]);
        (across, HEIGHT - BOTTOM - down * (HEIGHT - TOP - BOTTOM))
    }

    fn begin(&self, x_label: &str, y_label: &str) -> String {
        let mut text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{y_label} against {x_label}\">\n\
             <style>svg{{background:#fff}}text{{font:11px sans-serif;fill:#333}}.end{{text-anchor:end}}.front{{fill:#c2410c}}.point{{fill:#fff;stroke:#555}}\
             polyline{{fill:none;stroke-width:1.5}}.grid{{stroke:#ddd}}</style>\n"
        );
        for tick in 0..=5 {
            let value = self.y[0] + (self.y[1] - self.y[0]) * f64::from(tick) / 5.0;
            let (_, y) = self.at(self.x[0], value);
            let _ = writeln!(
                text,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/><text class=\"end\" x=\"{}\" y=\"{:.1}\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 6.0,
                y + 4.0,
                short(value)
            );
            let share = f64::from(tick) / 5.0;
            let value = match self.log {
                true => self.x[0] * (self.x[1] / self.x[0]).powf(share),
                false => self.x[0] + (self.x[1] - self.x[0]) * share,
            };
            let (x, _) = self.at(value, self.y[0]);
            let _ = writeln!(
                text,
                "<text x=\"{x:.1}\" y=\"{}\">{}</text>",
                HEIGHT - BOTTOM + 16.0,
                short(value)
            );
        }
        let _ = writeln!(
            text,
            "<text x=\"{LEFT}\" y=\"{}\">{x_label}</text><text x=\"4\" y=\"{}\">{y_label}</text>",
            HEIGHT - 8.0,
            TOP - 16.0
        );
        text
    }
}

/// Three figures, whatever the size.
fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 1.0 => format!("{value:.1}"),
        v if v >= 0.01 || v == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.0e}"),
    }
}

pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_lie_inside_and_their_names_apart() {
        let point = |name, x, y| Point {
            name,
            x,
            y,
            marked: name == "a",
        };
        let text = scatter(
            &[point("a", 1.0, 1.0), point("b<", 1.01, 1.0), point("c", 100.0, 5.0)],
            "MB",
            "%",
        );
        assert_eq!(text.matches("<circle").count(), 3);
        assert!(text.contains("b&lt;"));
        let heights: Vec<f64> = ["a", "b&lt;"]
            .map(|name| {
                let head = text.split(&format!("\">{name}</text>")).next().unwrap();
                head.rsplit("y=\"").next().unwrap().parse().unwrap()
            })
            .to_vec();
        assert!((heights[0] - heights[1]).abs() >= LINE, "{heights:?}");
        assert!(!text.contains("NaN") && !text.contains("inf"));
    }

    #[test]
    fn lines_leave_out_what_broke() {
        let text = lines(
            &[("a", vec![(1e-3, 2.0), (1e-2, f64::INFINITY)]), ("b", vec![])],
            true,
            "rate",
            "loss",
        );
        assert_eq!(text.matches("<polyline").count(), 1);
        assert!(!text.contains("NaN") && !text.contains("inf"));
    }
}
