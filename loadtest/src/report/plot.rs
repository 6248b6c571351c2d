//! SVG by hand: lines over a scaled axis, and grouped bars. No script, no font, nothing from elsewhere.

use std::fmt::Write;

const WIDTH: f64 = 720.0;
const LEFT: f64 = 130.0;
const RIGHT: f64 = 170.0;
const TOP: f64 = 40.0;
const LINES_HEIGHT: f64 = 340.0;
/// Told apart also by those who see few colours.
const COLOURS: [&str; 12] = [
    "#0072b2", "#56b4e9", "#d55e00", "#888888", "#009e73", "#cc79a7", "#e69f00", "#6a3d9a", "#000000",
    "#b15928", "#117733", "#aa0044",
];
/// The later colours' lines are dashed, so that neighbours differ in more than colour.
const DASHED_FROM: usize = 8;

/// A named line.
pub(super) struct Line {
    pub(super) name: String,
    pub(super) colour: usize,
    /// Position on the horizontal axis from 0 to 1, and the value.
    pub(super) points: Vec<(f64, f64)>,
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn open(height: f64, title: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\" role=\"img\"><title>{title}</title><rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/><text x=\"{LEFT}\" y=\"22\" font-size=\"15\" font-weight=\"bold\">{title}</text>",
        title = escape(title)
    )
}

/// A number as an axis shows it.
fn label(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{} M", value / 1e6),
        value if value >= 1e4 => format!("{} k", value / 1e3),
        value => format!("{value}"),
    }
}

/// Lines with a logarithmic vertical axis. `ticks` are the horizontal axis's, from 0 to 1.
pub(super) fn lines(title: &str, unit: &str, ticks: &[(f64, String)], lines: &[Line]) -> String {
    let mut svg = open(LINES_HEIGHT, title);
    let values =
        || lines.iter().flat_map(|line| &line.points).map(|point| point.1).filter(|value| *value > 0.0);
    let (low, high) = (values().fold(f64::MAX, f64::min), values().fold(f64::MIN_POSITIVE, f64::max));
    if low > high {
        return svg + "</svg>";
    }
    let (first, last) = (low.log10().floor(), high.log10().ceil().max(low.log10().floor() + 1.0));
    let bottom = LINES_HEIGHT - 40.0;
    let x = |position: f64| LEFT + position * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| {
        bottom - (value.max(f64::MIN_POSITIVE).log10() - first) / (last - first) * (bottom - TOP)
    };
    for power in first as i32..=last as i32 {
        let value = 10f64.powi(power);
        let _ = write!(
            svg,
            "<line x1=\"{}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#ddd\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{} {unit}</text>",
            x(0.0),
            x(1.0),
            x(0.0) - 6.0,
            y(value) + 4.0,
            label(value),
            y = y(value),
        );
    }
    for (position, text) in ticks {
        let _ = write!(
            svg,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            x(*position),
            bottom + 18.0,
            escape(text)
        );
    }
    for (index, line) in lines.iter().enumerate() {
        let colour = COLOURS[line.colour % COLOURS.len()];
        let points: Vec<String> = line
            .points
            .iter()
            .map(|&(position, value)| format!("{:.1},{:.1}", x(position), y(value)))
            .collect();
        let dashes = if line.colour % COLOURS.len() < DASHED_FROM { "" } else { " stroke-dasharray=\"6 3\"" };
        let _ = write!(
            svg,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{dashes} points=\"{}\"/>",
            points.join(" ")
        );
        for point in points.iter().filter(|_| line.points.len() <= 10) {
            let (cx, cy) = point.split_once(',').unwrap_or(("0", "0"));
            let _ = write!(svg, "<circle cx=\"{cx}\" cy=\"{cy}\" r=\"3.5\" fill=\"{colour}\"/>");
        }
        let key = TOP + 10.0 + 18.0 * index as f64;
        let _ = write!(
            svg,
            "<path d=\"M{:.1} {:.1}h15\" stroke=\"{colour}\" stroke-width=\"4\"{dashes}/><text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            x(1.0) + 14.0,
            key - 4.0,
            x(1.0) + 32.0,
            key,
            escape(&line.name)
        );
    }
    svg + "</svg>"
}

/// A bar: its name, its colour, and the parts that it is stacked of.
pub(super) struct Bar {
    pub(super) name: String,
    pub(super) colour: usize,
    pub(super) parts: Vec<f64>,
    pub(super) text: String,
}

/// Horizontal bars on a linear axis from 0; later parts are paler.
pub(super) fn bars(title: &str, bars: &[Bar]) -> String {
    let height = TOP + 26.0 * bars.len() as f64 + 10.0;
    let mut svg = open(height, title);
    let sum = |bar: &Bar| bar.parts.iter().map(|part| part.max(0.0)).sum::<f64>();
    let most = bars.iter().map(sum).fold(f64::MIN_POSITIVE, f64::max);
    for (index, bar) in bars.iter().enumerate() {
        let top = TOP + 26.0 * index as f64;
        let colour = COLOURS[bar.colour % COLOURS.len()];
        let _ = write!(
            svg,
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 8.0,
            top + 14.0,
            escape(&bar.name)
        );
        let mut left = LEFT;
        for (depth, part) in bar.parts.iter().enumerate() {
            let width = part.max(0.0) / most * (WIDTH - LEFT - RIGHT);
            let opacity = 1.0 / (1.0 + 1.5 * depth as f64);
            let _ = write!(
                svg,
                "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"18\" fill=\"{colour}\" fill-opacity=\"{opacity:.2}\"/>"
            );
            left += width;
        }
        let _ =
            write!(svg, "<text x=\"{:.1}\" y=\"{:.1}\">{}</text>", left + 6.0, top + 14.0, escape(&bar.text));
    }
    svg + "</svg>"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plots_are_whole_and_names_cannot_break_out() {
        let line = Line { name: "<b>".to_owned(), colour: 0, points: vec![(0.0, 1.0), (1.0, 2_000.0)] };
        let svg = lines("a & b", "us", &[(0.0, "50 %".to_owned())], &[line]);
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>"));
        assert!(svg.contains("&lt;b&gt;") && svg.contains("a &amp; b") && svg.contains("1000 us"));
        let bar = Bar { name: "x".to_owned(), colour: 1, parts: vec![1.0, -5.0, 3.0], text: "4".to_owned() };
        assert!(!bars("t", &[bar]).contains("width=\"-"));
        assert!(lines("empty", "us", &[], &[]).ends_with("</svg>"));
    }
}
