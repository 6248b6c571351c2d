//! SVG by hand: lines over a scaled axis, and grouped bars. No script, no font, nothing from elsewhere.

use std::fmt::Write;

const WIDTH: f64 = 720.0;
const LEFT: f64 = 130.0;
const RIGHT: f64 = 170.0;
/// Room for the text behind the longest bar.
const TEXT: f64 = 230.0;
const TOP: f64 = 40.0;
const LINES_HEIGHT: f64 = 340.0;
/// People who see few colours can tell them apart, too. There are as many as there are contenders at least.
const COLOURS: [&str; 16] = [
    "#0072b2", "#56b4e9", "#d55e00", "#888888", "#009e73", "#cc79a7", "#e69f00", "#6a3d9a", "#000000",
    "#b15928", "#117733", "#aa0044", "#44aa99", "#332288", "#999933", "#ff5fa2",
];
/// The strokes of lines from a colour on, so that neighbours differ in more than colour.
const STROKES: [(usize, &str); 3] =
    [(12, " stroke-dasharray=\"2 3\""), (8, " stroke-dasharray=\"6 3\""), (0, "")];

fn colour_of(number: usize) -> &'static str {
    COLOURS[number % COLOURS.len()]
}

fn stroke_of(number: usize) -> &'static str {
    let number = number % COLOURS.len();
    STROKES.iter().find(|(from, _)| number >= *from).map_or("", |(_, stroke)| stroke)
}

/// A named line.
pub(super) struct Line {
    pub(super) name: String,
    pub(super) colour: usize,
    pub(super) points: Vec<Point>,
}

/// A point of a line, with the range that the value was found in.
#[derive(Clone, Copy)]
pub(super) struct Point {
    /// On the horizontal axis, from 0 to 1.
    pub(super) position: f64,
    pub(super) value: f64,
    pub(super) lowest: f64,
    pub(super) highest: f64,
}

impl Point {
    /// A value that was found once.
    pub(super) fn at(position: f64, value: f64) -> Point {
        Point { position, value, lowest: value, highest: value }
    }
}

/// Up to so many points are marked one by one, each with its range; more make a curve in a band.
const MARKED: usize = 10;

/// A text as the content of an element, or in an attribute.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn open(height: f64, title: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\" role=\"img\"><title>{title}</title><rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/><text x=\"{LEFT}\" y=\"22\" font-size=\"15\" font-weight=\"bold\">{title}</text>",
        title = escape(title)
    )
}

/// Lines with a logarithmic vertical axis, and the ranges of their points. `label` writes a value of the
/// vertical axis with its unit; `ticks` are the horizontal axis's, from 0 to 1.
pub(super) fn lines(
    title: &str,
    label: fn(f64) -> String,
    ticks: &[(f64, String)],
    lines: &[Line],
) -> String {
    let mut svg = open(LINES_HEIGHT, &format!("{title} (logarithmic scale)"));
    let values =
        || lines.iter().flat_map(|line| &line.points).flat_map(|point| [point.lowest, point.highest]);
    let values = || values().filter(|value| *value > 0.0);
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
            "<line x1=\"{}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#ddd\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            x(0.0),
            x(1.0),
            x(0.0) - 6.0,
            y(value) + 4.0,
            escape(&label(value)),
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
        let (colour, dashes) = (colour_of(line.colour), stroke_of(line.colour));
        let points: Vec<String> = line
            .points
            .iter()
            .map(|point| format!("{:.1},{:.1}", x(point.position), y(point.value)))
            .collect();
        svg.push_str(&ranges(line, colour, x, y));
        let _ = write!(
            svg,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{dashes} points=\"{}\"/>",
            points.join(" ")
        );
        for point in points.iter().filter(|_| line.points.len() <= MARKED) {
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

/// The ranges of a line's points: a band around a curve, else a stroke at each point.
fn ranges(line: &Line, colour: &str, x: impl Fn(f64) -> f64, y: impl Fn(f64) -> f64) -> String {
    let mut svg = String::new();
    if line.points.iter().all(|point| point.lowest == point.highest) {
        return svg;
    }
    if line.points.len() > MARKED {
        let corner = |position, value| format!("{:.1},{:.1}", x(position), y(value));
        let above = line.points.iter().map(|point| corner(point.position, point.highest));
        let below = line.points.iter().rev().map(|point| corner(point.position, point.lowest));
        let corners = above.chain(below).collect::<Vec<_>>().join(" ");
        let _ = write!(svg, "<polygon fill=\"{colour}\" fill-opacity=\"0.15\" points=\"{corners}\"/>");
        return svg;
    }
    for point in &line.points {
        let _ = write!(
            svg,
            "<path d=\"M{:.1} {:.1}V{:.1}\" stroke=\"{colour}\" stroke-width=\"6\" stroke-opacity=\"0.3\"/>",
            x(point.position),
            y(point.lowest),
            y(point.highest)
        );
    }
    svg
}

/// A bar: its name, its colour, and the parts that it is stacked of.
pub(super) struct Bar {
    pub(super) name: String,
    pub(super) colour: usize,
    pub(super) parts: Vec<Length>,
    pub(super) text: String,
}

/// The length of a part of a bar, with the range that it was found in.
#[derive(Clone, Copy)]
pub(super) struct Length {
    pub(super) value: f64,
    pub(super) lowest: f64,
    pub(super) highest: f64,
}

/// Horizontal bars on a linear axis from 0; later parts are paler.
pub(super) fn bars(title: &str, bars: &[Bar]) -> String {
    let height = TOP + 26.0 * bars.len() as f64 + 10.0;
    let mut svg = open(height, title);
    // Up to the end of the range, where that is beyond the bar.
    let reach = |bar: &Bar| {
        let sum: f64 = bar.parts.iter().map(|part| part.value.max(0.0)).sum();
        bar.parts.iter().map(|part| part.highest).fold(sum, f64::max)
    };
    let most = bars.iter().map(reach).fold(f64::MIN_POSITIVE, f64::max);
    let scale = (WIDTH - LEFT - TEXT) / most;
    for (index, bar) in bars.iter().enumerate() {
        let top = TOP + 26.0 * index as f64;
        let colour = colour_of(bar.colour);
        let _ = write!(
            svg,
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 8.0,
            top + 14.0,
            escape(&bar.name)
        );
        let mut left = LEFT;
        for (depth, part) in bar.parts.iter().enumerate() {
            let width = part.value.max(0.0) * scale;
            let opacity = 1.0 / (1.0 + 1.5 * depth as f64);
            let _ = write!(
                svg,
                "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"18\" fill=\"{colour}\" fill-opacity=\"{opacity:.2}\"/>"
            );
            if part.lowest < part.highest {
                let _ = write!(
                    svg,
                    "<path d=\"M{:.1} {:.1}H{:.1}\" stroke=\"#222\" stroke-width=\"2\"/>",
                    left + part.lowest.max(0.0) * scale,
                    top + 9.0,
                    left + part.highest.max(0.0) * scale
                );
            }
            left += width;
        }
        let end = LEFT + reach(bar) * scale;
        let _ =
            write!(svg, "<text x=\"{:.1}\" y=\"{:.1}\">{}</text>", end + 6.0, top + 14.0, escape(&bar.text));
    }
    svg + "</svg>"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::units::microseconds;

    /// The last contenders had the colours and the strokes of the first ones.
    #[test]
    fn each_contender_has_a_colour_of_its_own() {
        let names = crate::compare::names();
        let mut colours: Vec<&str> = (0..names.len()).map(colour_of).collect();
        colours.sort_unstable();
        colours.dedup();
        assert_eq!(colours.len(), names.len());
        assert_eq!([0, 7, 8, 11, 12, 15].map(stroke_of).map(str::len), [0, 0, 23, 23, 23, 23]);
        assert_ne!(stroke_of(8), stroke_of(12));
    }

    #[test]
    fn plots_are_whole_and_names_cannot_break_out() {
        let point = |position, value| Point { position, value, lowest: value / 2.0, highest: value * 2.0 };
        let points = vec![point(0.0, 2.0), point(1.0, 1_000.0)];
        let line = Line { name: "<b>".to_owned(), colour: 0, points };
        let svg = lines("a & b", microseconds, &[(0.0, "50 %".to_owned())], &[line]);
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>"));
        assert!(svg.contains("&lt;b&gt;") && svg.contains("a &amp; b") && svg.contains(">1 ms</text>"));
        let parts = [1.0, -5.0, 3.0].map(|value| Length { value, lowest: value, highest: value }).into();
        let bar = Bar { name: "x".to_owned(), colour: 1, parts, text: "4".to_owned() };
        assert!(!bars("t", &[bar]).contains("width=\"-"));
        // Two points have their ranges, and many have a band.
        assert_eq!((svg.matches("stroke-opacity").count(), svg.matches("<polygon").count()), (2, 0));
        let points = (0..20).map(|index| point(f64::from(index) / 19.0, 5.0)).collect();
        let curve = Line { name: String::new(), colour: 0, points };
        assert_eq!(lines("t", microseconds, &[], &[curve]).matches("<polygon").count(), 1);
        assert!(lines("empty", microseconds, &[], &[]).ends_with("</svg>"));
    }
}
