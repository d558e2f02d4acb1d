//! A plot as SVG: panels side by side, with lines over a logarithmic axis and one scale of height.

use std::fmt::{Arguments, Write as _};

const WIDTH: f64 = 320.0;
const HEIGHT: f64 = 260.0;
const MARGIN: f64 = 64.0;

/// One line.
pub struct Line {
    /// What it shows.
    pub name: String,
    /// An SVG colour.
    pub colour: &'static str,
    /// Sizes, which must grow, and heights.
    pub points: Vec<(u64, f64)>,
}

/// One diagram.
pub struct Panel {
    /// What stands above it.
    pub title: String,
    /// Its lines.
    pub lines: Vec<Line>,
}

/// How heights become places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// From 0.
    Linear,
    /// From the power of ten below the lowest height.
    Logarithmic,
}

struct Heights {
    scale: Scale,
    low: f64,
    high: f64,
}

impl Heights {
    fn new(panels: &[Panel], scale: Scale) -> Self {
        let lines = panels.iter().flat_map(|panel| &panel.lines);
        let all = lines.flat_map(|line| &line.points).map(|point| point.1);
        let high = all.clone().fold(f64::MIN, f64::max);
        match scale {
            Scale::Linear => Self {
                scale,
                low: 0.0,
                high: high.max(1.0) * 1.15,
            },
            Scale::Logarithmic => {
                let low = all.fold(f64::MAX, f64::min).max(1e-9).log10().floor();
                Self {
                    scale,
                    low,
                    high: high.max(1e-9).log10().ceil().max(low + 1.0),
                }
            }
        }
    }

    fn share(&self, height: f64) -> f64 {
        let height = match self.scale {
            Scale::Linear => height,
            Scale::Logarithmic => height.max(1e-9).log10(),
        };
        (height - self.low) / (self.high - self.low)
    }

    /// Where numbers stand beside the axis.
    fn marks(&self) -> Vec<f64> {
        match self.scale {
            Scale::Linear => (0..=4)
                .map(|step| self.high * f64::from(step) / 4.0)
                .collect(),
            Scale::Logarithmic => (self.low as i32..=self.high as i32)
                .map(|power| 10_f64.powi(power))
                .collect(),
        }
    }
}

/// The panels as a picture.
pub fn svg(panels: &[Panel], scale: Scale) -> String {
    let heights = Heights::new(panels, scale);
    let full_width = (WIDTH + MARGIN) * panels.len() as f64 + MARGIN;
    let full_height = HEIGHT + 2.0 * MARGIN;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {full_width} {full_height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (place, panel) in panels.iter().enumerate() {
        let left = MARGIN + place as f64 * (WIDTH + MARGIN);
        draw(&mut out, panel, left, &heights);
    }
    out.push_str("</svg>\n");
    out
}

fn draw(out: &mut String, panel: &Panel, left: f64, heights: &Heights) {
    let bottom = MARGIN + HEIGHT;
    let sizes = || {
        let points = panel.lines.iter().flat_map(|line| &line.points);
        points.map(|point| point.0)
    };
    let log = |size: u64| (size.max(1) as f64).log10();
    let (first, last) = (
        log(sizes().min().unwrap_or(1)),
        log(sizes().max().unwrap_or(10)),
    );
    let x =
        |size: u64| left + 24.0 + (log(size) - first) / (last - first).max(0.1) * (WIDTH - 48.0);
    let y = |height: f64| bottom - heights.share(height) * HEIGHT;
    let mut put = |text: Arguments<'_>| {
        // Writing to a String does not fail.
        let _ = out.write_fmt(text);
        out.push('\n');
    };
    put(format_args!(
        "<text x=\"{left}\" y=\"{}\" font-weight=\"bold\">{}</text>",
        MARGIN - 24.0,
        panel.title
    ));
    put(format_args!(
        "<path d=\"M{left} {MARGIN}V{bottom}H{}\" fill=\"none\" stroke=\"#444\"/>",
        left + WIDTH
    ));
    for mark in heights.marks() {
        put(format_args!(
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            left - 6.0,
            y(mark) + 4.0,
            if mark < 1.0 && mark > 0.0 {
                mark.to_string()
            } else {
                grouped(mark.round() as u64)
            }
        ));
    }
    for (place, line) in panel.lines.iter().enumerate() {
        let points = line.points.iter();
        let path: Vec<String> = points
            .map(|(size, height)| format!("{:.1},{:.1}", x(*size), y(*height)))
            .collect();
        let (name, colour) = (&line.name, line.colour);
        put(format_args!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            path.join(" ")
        ));
        put(format_args!(
            "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\">{name}</text>",
            left + 12.0,
            MARGIN + 4.0 + 16.0 * place as f64
        ));
        for (size, height) in &line.points {
            put(format_args!(
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"/>",
                x(*size),
                y(*height)
            ));
        }
    }
    let marked: std::collections::BTreeSet<u64> = sizes().collect();
    for size in marked {
        put(format_args!(
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            x(size),
            bottom + 18.0,
            short(size)
        ));
    }
}

/// A number in a small space: 1k, 10k, 1M.
fn short(number: u64) -> String {
    match number {
        _ if number > 0 && number.is_multiple_of(1_000_000) => format!("{}M", number / 1_000_000),
        _ if number > 0 && number.is_multiple_of(1_000) => format!("{}k", number / 1_000),
        _ => number.to_string(),
    }
}

/// A number with its thousands apart.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
