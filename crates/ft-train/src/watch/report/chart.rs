//! A line chart as inline SVG.

const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 220.0;
/// Left, right, top, bottom.
const MARGIN: [f64; 4] = [52.0, 18.0, 12.0, 28.0];

/// Named points over steps.
pub(super) struct Series {
    name: &'static str,
    points: Vec<(f64, f64)>,
}

impl Series {
    pub fn new(name: &'static str, points: Vec<(f64, f64)>) -> Self {
        Self { name, points }
    }
}

/// One chart.
pub(super) struct Chart {
    title: &'static str,
    series: Vec<Series>,
    anchored: bool,
}

impl Chart {
    pub fn new(title: &'static str, series: Vec<Series>) -> Self {
        let series = series.into_iter().filter(|s| !s.points.is_empty()).collect();
        Self {
            title,
            series,
            anchored: false,
        }
    }

    /// A chart of one series, which the title names.
    pub fn single(title: &'static str, points: Vec<(f64, f64)>) -> Self {
        Self::new(title, vec![Series::new("", points)])
    }

    /// Values are amounts: the axis begins at 0.
    pub fn anchored(self) -> Self {
        Self { anchored: true, ..self }
    }

    /// The chart under its heading; nothing without points.
    pub fn svg(&self) -> Option<String> {
        let all: Vec<(f64, f64)> = self.series.iter().flat_map(|s| s.points.iter().copied()).collect();
        let (first, rest) = all.split_first()?;
        // Steps count from 0; values need not.
        let lowest = if self.anchored { first.1.min(0.0) } else { first.1 };
        let start = ([first.0.min(0.0), first.0], [lowest, first.1]);
        let (x, y) = rest.iter().fold(start, |(x, y), p| (grow(x, p.0), grow(y, p.1)));
        let frame = Frame {
            x: widened(x),
            y: widened(y),
        };
        let lines: String = self.series.iter().enumerate().map(|(i, s)| frame.line(i, s)).collect();
        Some(format!(
            "<figure><h2>{}</h2><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{0}\">{}{lines}</svg></figure>",
            self.title,
            frame.axes()
        ))
    }
}

fn grow([low, high]: [f64; 2], v: f64) -> [f64; 2] {
    [low.min(v), high.max(v)]
}

/// A range without width still needs room to be drawn in.
fn widened([low, high]: [f64; 2]) -> [f64; 2] {
    if high > low {
        [low, high]
    } else {
        [low - 0.5 * low.abs().max(1e-9), high + 0.5 * high.abs().max(1e-9)]
    }
}

struct Frame {
    x: [f64; 2],
    y: [f64; 2],
}

impl Frame {
    fn place(&self, (x, y): (f64, f64)) -> (f64, f64) {
        let share = |v: f64, [low, high]: [f64; 2]| (v - low) / (high - low);
        let [left, right, top, bottom] = MARGIN;
        let px = left + share(x, self.x) * (WIDTH - left - right);
        let py = HEIGHT - bottom - share(y, self.y) * (HEIGHT - top - bottom);
        (px, py)
    }

    fn axes(&self) -> String {
        let mut out = String::new();
        for y in ticks(self.y) {
            let (left, py) = self.place((self.x[0], y));
            let right = WIDTH - MARGIN[1];
            out += &format!("<line class=\"axis\" x1=\"{left:.1}\" y1=\"{py:.1}\" x2=\"{right:.1}\" y2=\"{py:.1}\"/>");
            out += &format!(
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                left - 6.0,
                py + 4.0,
                number(y)
            );
        }
        for x in ticks(self.x) {
            let (px, bottom) = self.place((x, self.y[0]));
            out += &format!(
                "<text x=\"{px:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                bottom + 18.0,
                number(x)
            );
        }
        out
    }

    fn line(&self, index: usize, series: &Series) -> String {
        let points: Vec<String> = series
            .points
            .iter()
            .map(|p| self.place(*p))
            .map(|(x, y)| format!("{x:.1},{y:.1}"))
            .collect();
        let dot = match points.as_slice() {
            [only] => {
                let (x, y) = only.split_once(',').unwrap_or_default();
                format!("<circle class=\"d{index}\" cx=\"{x}\" cy=\"{y}\" r=\"3\"/>")
            }
            _ => String::new(),
        };
        format!(
            "<polyline class=\"s{index}\" fill=\"none\" stroke-width=\"1.5\" points=\"{}\"/>{dot}{}",
            points.join(" "),
            legend(index, series.name)
        )
    }
}

/// The name of a series, where it has one, beside its color.
fn legend(index: usize, name: &str) -> String {
    if name.is_empty() {
        return String::new();
    }
    let (x, y) = (WIDTH - MARGIN[1] - 110.0, MARGIN[2] + 14.0 + 16.0 * index as f64);
    format!(
        "<rect class=\"d{index}\" x=\"{x}\" y=\"{:.1}\" width=\"10\" height=\"3\"/><text x=\"{:.1}\" y=\"{y:.1}\">{}</text>",
        y - 5.0,
        x + 16.0,
        escape(name)
    )
}

/// Round numbers of the range: multiples of 1, 2 or 5 times a power of ten, two to six of them.
fn ticks([low, high]: [f64; 2]) -> Vec<f64> {
    const INTERVALS: f64 = 5.0;
    let least = (high - low) / INTERVALS;
    let power = 10f64.powf(least.log10().floor());
    let step = [1.0, 2.0, 5.0]
        .map(|m| m * power)
        .into_iter()
        .find(|step| *step >= least);
    let step = step.unwrap_or(10.0 * power);
    let (first, last) = ((low / step).ceil() as i64, (high / step).floor() as i64);
    (first..=last).map(|k| k as f64 * step).collect()
}

/// Short for an axis: `1.25`, `2.0e-4`, `1200`.
fn number(v: f64) -> String {
    match v.abs() {
        a if a != 0.0 && !(1e-2..1e6).contains(&a) => format!("{v:.1e}"),
        a if a >= 100.0 || v.fract() == 0.0 => format!("{v:.0}"),
        _ => format!("{v:.2}"),
    }
}

/// Text as HTML.
pub(super) fn escape(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        let shown = |range| ticks(range).into_iter().map(number).collect::<Vec<_>>();
        assert_eq!(shown([1.0, 40.0]), ["10", "20", "30", "40"]);
        assert_eq!(shown([0.0, 200.0]), ["0", "50", "100", "150", "200"]);
        assert_eq!(shown([2.18, 12.17]), ["4", "6", "8", "10", "12"]);
        assert_eq!(
            shown([0.0, 5e-4]),
            ["0", "1.0e-4", "2.0e-4", "3.0e-4", "4.0e-4", "5.0e-4"]
        );
        assert_eq!(shown([0.25, 0.75]).len(), 5);
    }
}
