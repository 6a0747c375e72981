//! Charts as inline SVG.

use std::fmt::Write;

use super::html::escape;
use super::stats::millis;

const COLOURS: [&str; 8] = [
    "#0969da", "#bf3989", "#1a7f37", "#9a6700", "#cf222e", "#8250df", "#57606a", "#0a7ea4",
];
const WIDTH: f64 = 900.0;

/// A line of a chart: x in the chart's unit, y in nanoseconds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) points: Vec<(u64, u64)>,
}

/// Consecutive phases on one bar.
pub(crate) fn timeline(phases: &[(String, u64)]) -> String {
    let total = phases.iter().map(|phase| phase.1).sum::<u64>().max(1);
    let height = 70.0 + 22.0 * phases.len().div_ceil(3) as f64;
    let mut svg = begin(height);
    let mut x = 0.0;
    for (index, (name, ns)) in phases.iter().enumerate() {
        let width = WIDTH * *ns as f64 / total as f64;
        let colour = colour(index);
        let (name, ms) = (escape(name), millis(*ns));
        // Writing to a string cannot fail.
        let _ = write!(
            svg,
            "<rect x=\"{x:.1}\" y=\"10\" width=\"{width:.1}\" height=\"40\" fill=\"{colour}\">\
             <title>{name}: {ms} ms</title></rect>"
        );
        let (left, top) = (300.0 * (index % 3) as f64, 75.0 + 22.0 * (index / 3) as f64);
        svg += &key(left, top, colour, &format!("{name} {ms} ms"));
        x += width;
    }
    end(svg)
}

/// One bar per name.
pub(crate) fn bars(bars: &[(String, u64)]) -> String {
    const LEFT: f64 = 270.0;
    let most = bars.iter().map(|bar| bar.1).max().unwrap_or(1).max(1);
    let mut svg = begin(20.0 + 36.0 * bars.len() as f64);
    for (index, (name, ns)) in bars.iter().enumerate() {
        let top = 10.0 + 36.0 * index as f64;
        let width = (WIDTH - LEFT - 110.0) * *ns as f64 / most as f64;
        let _ = write!(
            svg,
            "<rect x=\"{LEFT}\" y=\"{top}\" width=\"{width:.1}\" height=\"26\" fill=\"{}\"/>",
            colour(index)
        );
        svg += &text(LEFT - 10.0, top + 18.0, "end", &escape(name));
        let label = format!("{} ms", millis(*ns));
        svg += &text(LEFT + width + 8.0, top + 18.0, "start", &label);
    }
    end(svg)
}

/// Lines over a common axis; both axes begin at 0.
pub(crate) fn lines(unit: &str, lines: &[Line]) -> String {
    const LEFT: f64 = 80.0;
    const TOP: f64 = 15.0;
    const BOTTOM: f64 = 315.0;
    let points = || lines.iter().flat_map(|line| &line.points);
    let most_x = points().map(|point| point.0).max().unwrap_or(1).max(1);
    let most_y = points().map(|point| point.1).max().unwrap_or(1).max(1);
    let place = |(x, y): (u64, u64)| {
        let across = LEFT + (WIDTH - LEFT - 30.0) * x as f64 / most_x as f64;
        (across, BOTTOM - (BOTTOM - TOP) * y as f64 / most_y as f64)
    };
    let mut svg = begin(BOTTOM + 45.0 + 22.0 * lines.len().div_ceil(3) as f64);
    for quarter in 0..=4 {
        let value = most_y / 4 * quarter;
        let (_, y) = place((0, value));
        let _ = write!(
            svg,
            "<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{:.1}\" y2=\"{y:.1}\" stroke=\"#d0d7de\"/>",
            WIDTH - 30.0
        );
        svg += &text(LEFT - 8.0, y + 5.0, "end", &format!("{} ms", millis(value)));
    }
    let mut ticks: Vec<u64> = points().map(|point| point.0).collect();
    ticks.sort_unstable();
    ticks.dedup();
    for tick in ticks {
        let (x, y) = place((tick, 0));
        svg += &text(x, y + 20.0, "middle", &format!("{tick} {}", escape(unit)));
    }
    for (index, line) in lines.iter().enumerate() {
        let colour = colour(index);
        let path: Vec<String> = line
            .points
            .iter()
            .map(|point| {
                let (x, y) = place(*point);
                let _ = write!(
                    svg,
                    "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{colour}\"/>"
                );
                format!("{x:.1},{y:.1}")
            })
            .collect();
        let _ = write!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            path.join(" ")
        );
        let (left, row) = (300.0 * (index % 3) as f64, (index / 3) as f64);
        svg += &key(
            left,
            BOTTOM + 45.0 + 22.0 * row,
            colour,
            &escape(&line.name),
        );
    }
    end(svg)
}

fn begin(height: f64) -> String {
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" font-family=\"system-ui,sans-serif\" \
         font-size=\"14\" fill=\"#1b1f24\">"
    )
}

fn end(svg: String) -> String {
    svg + "</svg>\n"
}

fn colour(index: usize) -> &'static str {
    COLOURS[index % COLOURS.len()]
}

fn key(x: f64, y: f64, colour: &str, label: &str) -> String {
    let mark = format!(
        "<rect x=\"{x}\" y=\"{}\" width=\"12\" height=\"12\" fill=\"{colour}\"/>",
        y - 11.0
    );
    mark + &text(x + 18.0, y, "start", label)
}

/// `label` is already escaped.
fn text(x: f64, y: f64, anchor: &str, label: &str) -> String {
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{label}</text>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_fill_the_bar() {
        let svg = timeline(&[("a".to_owned(), 1_000_000), ("b".to_owned(), 3_000_000)]);
        assert!(
            svg.contains("width=\"225.0\"") && svg.contains("width=\"675.0\""),
            "{svg}"
        );
        assert!(svg.contains("x=\"225.0\""), "{svg}");
    }

    #[test]
    fn nothing_to_draw_is_no_division_by_zero() {
        for svg in [timeline(&[]), bars(&[]), lines("MiB", &[])] {
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
        let zero = vec![("zero".to_owned(), 0)];
        assert!(!bars(&zero).contains("NaN"));
    }

    #[test]
    fn a_line_has_a_point_for_each_figure() {
        let line = Line {
            name: "x".to_owned(),
            points: vec![(128, 1), (256, 2)],
        };
        assert_eq!(lines("MiB", &[line]).matches("<circle").count(), 2);
    }
}
