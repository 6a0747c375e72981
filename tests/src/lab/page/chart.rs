//! Charts as inline SVG. Colours come from the page's style, which has them for light and dark.

use std::fmt::Write;

use super::axis::{Axis, Quantity, time};
use super::escape;

const COLOURS: usize = 8;
const WIDTH: f64 = 900.0;
/// The mean width of a character, roughly: labels are placed by it.
const CHARACTER: f64 = 7.6;

/// A line of a chart: x in the chart's unit, y of the chart's quantity.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) points: Vec<(u64, u64)>,
}

/// Something that took time: when it began, and how long it took.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Span {
    pub(crate) name: String,
    pub(crate) begins_ns: u64,
    pub(crate) took_ns: u64,
}

/// Consecutive phases on one bar, to scale. A phase is labelled on the bar if it is wide enough,
/// and always below.
pub(crate) fn timeline(phases: &[(String, u64)]) -> String {
    let total = phases.iter().map(|phase| phase.1).sum::<u64>();
    let axis = Axis::up_to(Quantity::Time, total, 8);
    let labels: Vec<String> = phases
        .iter()
        .map(|(name, ns)| labelled(name, *ns))
        .collect();
    let mut svg = String::new();
    let mut begins = 0;
    for (index, (name, ns)) in phases.iter().enumerate() {
        let (x, width) = (WIDTH * axis.place(begins), WIDTH * axis.place(*ns));
        let title = format!("<title>{}</title>", escape(&labels[index]));
        svg += &rect(x, 10.0, width, 40.0, index, &title);
        if width > wide(name) + 10.0 {
            svg += &text(x + width / 2.0, 35.0, "middle", " class=\"inside\"", name);
        }
        begins += ns;
    }
    svg += &below(axis, 0.0, WIDTH, 50.0);
    let (keys, height) = keys(&labels, 100.0);
    whole(svg + &keys, height)
}

/// One row per span, to scale, on one axis of time.
pub(crate) fn spans(spans: &[Span]) -> String {
    let ends = spans.iter().map(|span| span.begins_ns + span.took_ns);
    let left = left_of(spans.iter().map(|span| span.name.as_str()));
    let right = WIDTH - 90.0;
    let axis = Axis::up_to(Quantity::Time, ends.max().unwrap_or(0), 6);
    let mut svg = String::new();
    for (index, span) in spans.iter().enumerate() {
        let top = 8.0 + 26.0 * index as f64;
        let x = left + (right - left) * axis.place(span.begins_ns);
        let width = (right - left) * axis.place(span.took_ns);
        svg += &rect(x, top, width.max(1.0), 18.0, 0, "");
        svg += &text(left - 10.0, top + 14.0, "end", "", &span.name);
        svg += &text(
            x + width + 6.0,
            top + 14.0,
            "start",
            "",
            &time(span.took_ns),
        );
    }
    let bottom = 12.0 + 26.0 * spans.len() as f64;
    svg += &below(axis, left, right, bottom);
    whole(svg, bottom + 30.0)
}

/// One bar per name.
pub(crate) fn bars(bars: &[(String, u64)]) -> String {
    let most = bars.iter().map(|bar| bar.1).max().unwrap_or(0);
    let left = left_of(bars.iter().map(|bar| bar.0.as_str()));
    let axis = Axis::up_to(Quantity::Time, most, 4);
    let mut svg = String::new();
    for (index, (name, ns)) in bars.iter().enumerate() {
        let top = 10.0 + 36.0 * index as f64;
        let width = (WIDTH - left - 90.0) * axis.place(*ns);
        svg += &rect(left, top, width, 26.0, index, "");
        svg += &text(left - 10.0, top + 18.0, "end", "", name);
        svg += &text(left + width + 8.0, top + 18.0, "start", "", &time(*ns));
    }
    whole(svg, 20.0 + 36.0 * bars.len() as f64)
}

/// Lines over a common axis; both axes begin at 0.
pub(crate) fn lines(unit: &str, quantity: Quantity, lines: &[Line]) -> String {
    const LEFT: f64 = 80.0;
    const RIGHT: f64 = WIDTH - 50.0;
    const TOP: f64 = 15.0;
    const BOTTOM: f64 = 315.0;
    let points = || lines.iter().flat_map(|line| &line.points);
    let most_x = points().map(|point| point.0).max().unwrap_or(1).max(1);
    let most_y = points().map(|point| point.1).max().unwrap_or(0);
    let axis = Axis::up_to(quantity, most_y, 5);
    let across = |x: u64| LEFT + (RIGHT - LEFT) * x as f64 / most_x as f64;
    let up = |share: f64| BOTTOM - (BOTTOM - TOP) * share;
    let mut svg = String::new();
    for (share, label) in axis.ticks() {
        let y = up(share);
        // Writing to a string cannot fail.
        let _ = write!(
            svg,
            "<line class=\"rule\" x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{RIGHT}\" y2=\"{y:.1}\"/>"
        );
        svg += &text(LEFT - 8.0, y + 5.0, "end", "", &label);
    }
    let mut ticks: Vec<u64> = points().map(|point| point.0).collect();
    ticks.sort_unstable();
    ticks.dedup();
    let mut free = f64::MIN;
    for tick in ticks {
        let label = format!("{tick} {unit}").trim_end().to_owned();
        let half = wide(&label) / 2.0;
        if across(tick) - half > free {
            svg += &text(across(tick), BOTTOM + 20.0, "middle", "", &label);
            free = across(tick) + half + 4.0;
        }
    }
    for (index, line) in lines.iter().enumerate() {
        let place = |(x, y)| (across(x), up(axis.place(y)));
        svg += &polyline(line, index, quantity, place);
    }
    let names: Vec<String> = lines.iter().map(|line| line.name.clone()).collect();
    let (keys, height) = keys(&names, BOTTOM + 50.0);
    whole(svg + &keys, height)
}

fn polyline(
    line: &Line,
    index: usize,
    quantity: Quantity,
    place: impl Fn((u64, u64)) -> (f64, f64),
) -> String {
    let colour = index % COLOURS;
    // Many points would hide the line.
    let radius = if line.points.len() > 50 { 1 } else { 4 };
    let mut svg = String::new();
    let mut path = Vec::new();
    for point in &line.points {
        let (x, y) = place(*point);
        let title = escape(&format!("{} {}", line.name, quantity.text(point.1)));
        let _ = write!(
            svg,
            "<circle class=\"c{colour}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\"><title>{title}</title></circle>"
        );
        path.push(format!("{x:.1},{y:.1}"));
    }
    let path = path.join(" ");
    svg + &format!("<polyline class=\"c{colour}\" points=\"{path}\"/>")
}

fn whole(content: String, height: f64) -> String {
    format!("<svg viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\">{content}</svg>\n")
}

fn labelled(name: &str, ns: u64) -> String {
    format!("{name} {}", time(ns))
}

fn wide(label: &str) -> f64 {
    label.chars().count() as f64 * CHARACTER
}

/// Room for the longest of the names at the left.
fn left_of<'a>(names: impl Iterator<Item = &'a str>) -> f64 {
    let most = names.map(wide).fold(60.0, f64::max);
    most.min(WIDTH / 2.0) + 15.0
}

/// The ticks of a horizontal axis at `y`.
fn below(axis: Axis, left: f64, right: f64, y: f64) -> String {
    let mut svg = String::new();
    for (share, label) in axis.ticks() {
        let x = left + (right - left) * share;
        let anchor = match x {
            x if x < wide(&label) / 2.0 => "start",
            x if x > WIDTH - wide(&label) / 2.0 => "end",
            _ => "middle",
        };
        let _ = write!(
            svg,
            "<line class=\"rule\" x1=\"{x:.1}\" y1=\"{y}\" x2=\"{x:.1}\" y2=\"{}\"/>",
            y + 6.0
        );
        svg += &text(x, y + 20.0, anchor, "", &label);
    }
    svg
}

/// The meaning of the colours, in as many columns as the longest label allows; and where they end.
fn keys(labels: &[String], top: f64) -> (String, f64) {
    let column = labels.iter().map(|label| wide(label)).fold(0.0, f64::max) + 40.0;
    let columns = ((WIDTH / column) as usize).clamp(1, 4);
    let mut svg = String::new();
    for (index, label) in labels.iter().enumerate() {
        let x = WIDTH / columns as f64 * (index % columns) as f64;
        let y = top + 22.0 * (index / columns) as f64;
        svg += &rect(x, y - 11.0, 12.0, 12.0, index, "");
        svg += &text(x + 18.0, y, "start", "", label);
    }
    let rows = labels.len().div_ceil(columns);
    (svg, top + 22.0 * rows as f64)
}

fn rect(x: f64, y: f64, width: f64, height: f64, colour: usize, inner: &str) -> String {
    let colour = colour % COLOURS;
    format!(
        "<rect class=\"c{colour}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height}\">{inner}</rect>"
    )
}

fn text(x: f64, y: f64, anchor: &str, class: &str, label: &str) -> String {
    let label = escape(label);
    format!("<text{class} x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{label}</text>")
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
    fn a_narrow_phase_is_labelled_below_only() {
        let svg = timeline(&[("narrow".to_owned(), 1), ("wide".to_owned(), 1000)]);
        assert!(
            svg.contains(">wide</text>") && !svg.contains(">narrow</text>"),
            "{svg}"
        );
        assert!(svg.contains(">narrow 1 ns</text>"), "{svg}");
    }

    #[test]
    fn nothing_to_draw_is_no_division_by_zero() {
        for svg in [
            timeline(&[]),
            bars(&[]),
            lines("MiB", Quantity::Time, &[]),
            spans(&[]),
        ] {
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
        assert_eq!(
            lines("MiB", Quantity::Time, &[line])
                .matches("<circle")
                .count(),
            2
        );
    }

    #[test]
    fn labels_of_an_axis_do_not_overlap() {
        let line = Line {
            name: "x".to_owned(),
            points: vec![(64, 1), (72, 2), (8192, 3)],
        };
        let svg = lines("MiB", Quantity::Time, &[line]);
        assert!(
            svg.contains(">64 MiB<") && svg.contains(">8192 MiB<"),
            "{svg}"
        );
        assert!(!svg.contains(">72 MiB<"), "{svg}");
    }

    #[test]
    fn spans_are_to_scale_on_one_axis() {
        let span = |name: &str, begins_ns, took_ns| Span {
            name: name.to_owned(),
            begins_ns,
            took_ns,
        };
        let svg = spans(&[span("a", 0, 1_000_000), span("b", 1_000_000, 1_000_000)]);
        // 75 for the names, 90 for the labels behind the last one.
        assert!(
            svg.contains("x=\"75.0\"") && svg.contains("x=\"442.5\""),
            "{svg}"
        );
        assert_eq!(svg.matches("width=\"367.5\"").count(), 2, "{svg}");
    }
}
