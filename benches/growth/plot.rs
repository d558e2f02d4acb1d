//! The plot: for each series the cost of an event over the size, stacked by who spent it.

use std::fmt::Write as _;

use crate::Point;

const WIDTH: f64 = 320.0;
const HEIGHT: f64 = 260.0;
const MARGIN: f64 = 56.0;

/// One series.
pub struct Panel {
    /// What grows.
    pub name: &'static str,
    /// The cost at each size.
    pub points: Vec<Point>,
}

impl Panel {
    /// A series.
    pub fn new(name: &'static str, points: Vec<Point>) -> Self {
        Self { name, points }
    }
}

/// The series side by side, with one scale of cost.
pub fn svg(panels: &[Panel]) -> String {
    let highest = panels
        .iter()
        .flat_map(|panel| &panel.points)
        .map(|point| point.server_us + point.postgres_us)
        .fold(1.0, f64::max)
        * 1.15;
    let full_width = (WIDTH + MARGIN) * panels.len() as f64 + MARGIN;
    let full_height = HEIGHT + 2.0 * MARGIN;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {full_width} {full_height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (place, panel) in panels.iter().enumerate() {
        draw(
            &mut out,
            panel,
            MARGIN + place as f64 * (WIDTH + MARGIN),
            highest,
        );
    }
    out.push_str("</svg>\n");
    out
}

fn draw(out: &mut String, panel: &Panel, left: f64, highest: f64) {
    let bottom = MARGIN + HEIGHT;
    let logs: Vec<f64> = panel
        .points
        .iter()
        .map(|p| (p.size as f64).log10())
        .collect();
    let (first, last) = (
        logs.first().copied().unwrap_or(0.0),
        logs.last().copied().unwrap_or(1.0),
    );
    let x = |log: f64| left + 24.0 + (log - first) / (last - first).max(0.1) * (WIDTH - 48.0);
    let y = |us: f64| bottom - us / highest * HEIGHT;
    let mut put = |text: std::fmt::Arguments<'_>| {
        // Writing to a String does not fail.
        let _ = out.write_fmt(text);
        out.push('\n');
    };
    put(format_args!(
        "<text x=\"{left}\" y=\"{}\" font-weight=\"bold\">µs of CPU an event, by {}</text>",
        MARGIN - 24.0,
        panel.name
    ));
    put(format_args!(
        "<path d=\"M{left} {MARGIN}V{bottom}H{}\" fill=\"none\" stroke=\"#444\"/>",
        left + WIDTH
    ));
    for step in 0..=4 {
        let us = highest * f64::from(step) / 4.0;
        put(format_args!(
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{us:.0}</text>",
            left - 6.0,
            y(us) + 4.0
        ));
    }
    let total = |p: &Point| p.server_us + p.postgres_us;
    let lines: [(&str, &str, fn(&Point) -> f64); 2] = [
        ("Postgres", "#336791", |p| p.postgres_us),
        ("and server", "#c2410c", |p| p.server_us + p.postgres_us),
    ];
    for (place, (name, colour, of)) in lines.into_iter().enumerate() {
        let path: Vec<String> = panel
            .points
            .iter()
            .zip(&logs)
            .map(|(point, log)| format!("{:.1},{:.1}", x(*log), y(of(point))))
            .collect();
        put(format_args!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            path.join(" ")
        ));
        put(format_args!(
            "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\">{name}</text>",
            left + 12.0 + 80.0 * place as f64,
            MARGIN - 6.0
        ));
    }
    for (point, log) in panel.points.iter().zip(&logs) {
        put(format_args!(
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"#c2410c\"/>\
             <text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            x(*log),
            y(total(point)),
            x(*log),
            bottom + 18.0,
            grouped(point.size)
        ));
    }
}

/// A number with its thousands apart.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
