//! Plots as SVG. Each is a card with a background of its own, so that it can be read on light and dark pages.

use crate::{
    report::{Summary, number},
    timeline::{Entry, LANES},
};
use plotters::{
    coord::Shift,
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const CARD: RGBColor = RGBColor(250, 250, 247);
const EDGE: RGBColor = RGBColor(208, 208, 202);
const INK: RGBColor = RGBColor(38, 42, 48);
const FAINT: RGBColor = RGBColor(225, 225, 220);
const OURS: RGBColor = RGBColor(20, 110, 180);
const PEER: RGBColor = RGBColor(200, 100, 20);
const LANE_COLOURS: [RGBColor; 4] = [
    RGBColor(180, 40, 50),
    RGBColor(110, 110, 115),
    RGBColor(20, 110, 180),
    RGBColor(30, 130, 90),
];
const WIDTH: u32 = 900;
/// The library writes smaller than it is asked to, by a fifth.
const SMALL: u32 = 15;
const LARGE: u32 = 20;

/// Draws a card of this height.
fn card(height: u32, title: &str, draw: impl FnOnce(&Area)) -> String {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        area.fill(&CARD).expect("an image");
        let (right, bottom) = (WIDTH.cast_signed() - 1, height.cast_signed() - 1);
        let edge = Rectangle::new([(0, 0), (right, bottom)], EDGE);
        area.draw(&edge).expect("an image");
        write(&area, (18, 26), title, LARGE, INK, HPos::Left);
        draw(&area);
        area.present().expect("an image");
    }
    svg
}

/// Writes a text whose middle has this height.
fn write(area: &Area, at: (i32, i32), text: &str, size: u32, colour: RGBColor, align: HPos) {
    let style = ("sans-serif", size).into_font().color(&colour);
    let style = style.pos(Pos::new(align, VPos::Center));
    area.draw(&Text::new(text, at, style)).expect("an image");
}

/// Draws the marks of a horizontal axis: lines from `top` to `bottom`, with their values below.
fn write_marks(area: &Area, axis: &Axis, top: i32, bottom: i32) {
    for mark in axis.marks() {
        let x = axis.at(mark);
        line(area, [(x, top), (x, bottom)], FAINT);
        let below = (x, bottom + 14);
        write(area, below, &tick(mark), SMALL, INK, HPos::Center);
    }
}

fn line(area: &Area, points: [(i32, i32); 2], style: impl Into<ShapeStyle>) {
    area.draw(&PathElement::new(points.to_vec(), style.into()))
        .expect("an image");
}

/// An axis in pixels.
struct Axis {
    from: f64,
    to: f64,
    is_logarithmic: bool,
    pixels: (i32, i32),
}

impl Axis {
    fn at(&self, value: f64) -> i32 {
        let scale = |value: f64| {
            if self.is_logarithmic {
                value.log10()
            } else {
                value
            }
        };
        let (from, to) = (scale(self.from), scale(self.to));
        let share = (scale(value) - from) / (to - from);
        let (first, last) = (f64::from(self.pixels.0), f64::from(self.pixels.1));
        #[allow(clippy::cast_possible_truncation, reason = "within the image")]
        let pixel = (first + share * (last - first)).round() as i32;
        pixel
    }

    /// Returns the values to mark.
    fn marks(&self) -> Vec<f64> {
        if self.is_logarithmic {
            let powers = (-3..7).map(|power| 10_f64.powi(power));
            let marks =
                powers.filter(|mark| *mark >= self.from * 0.999 && *mark <= self.to * 1.001);
            return marks.collect();
        }
        let rough = (self.to - self.from) / 5.0;
        let power = 10_f64.powf(rough.log10().floor());
        let steps = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power);
        let step = steps
            .into_iter()
            .find(|step| *step >= rough)
            .unwrap_or(rough);
        let first = (self.from / step).ceil();
        let marks = (0..12).map(|number| (first + f64::from(number)) * step);
        marks.filter(|mark| *mark <= self.to).collect()
    }
}

/// Returns the powers of ten around these values.
fn decades(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let least = values.clone().fold(f64::INFINITY, f64::min);
    let greatest = values.fold(f64::MIN_POSITIVE, f64::max);
    let from = 10_f64.powf(least.log10().floor());
    (from, 10_f64.powf(greatest.log10().ceil()).max(from * 10.0))
}

/// Draws the ranges of several programs below each other; names their medians.
pub fn ranges(
    title: &str,
    unit: &str,
    rows: &[(&str, Summary, bool)],
    is_logarithmic: bool,
) -> String {
    const ROW: i32 = 36;
    let count = i32::try_from(rows.len()).expect("few");
    let height = 48 + count * ROW + 52;
    let ends = rows.iter().flat_map(|(_, it, _)| [it.least, it.greatest]);
    let (from, to) = if is_logarithmic {
        decades(ends)
    } else {
        (0.0, ends.fold(0.0, f64::max) * 1.1)
    };
    let axis = Axis {
        from,
        to,
        is_logarithmic,
        pixels: (372, 810),
    };
    card(height.cast_unsigned(), title, |area| {
        let bottom = 48 + count * ROW;
        write_marks(area, &axis, 48, bottom);
        write(area, (591, bottom + 36), unit, SMALL, INK, HPos::Center);
        for (number_, (name, summary, is_ours)) in (0..).zip(rows) {
            let y = 48 + number_ * ROW + ROW / 2;
            let colour = if *is_ours { OURS } else { PEER };
            write(
                area,
                (358, y),
                &name.replace('`', ""),
                SMALL,
                INK,
                HPos::Right,
            );
            let [least, median, greatest] =
                [summary.least, summary.median, summary.greatest].map(|value| axis.at(value));
            if !is_logarithmic {
                let bar = Rectangle::new(
                    [(axis.pixels.0, y - 8), (median, y + 8)],
                    colour.mix(0.35).filled(),
                );
                area.draw(&bar).expect("an image");
            }
            line(area, [(least, y), (greatest, y)], colour.stroke_width(3));
            area.draw(&Circle::new((median, y), 5, colour.filled()))
                .expect("an image");
            let label = number(summary.median);
            write(
                area,
                (greatest.max(median) + 10, y),
                &label,
                SMALL,
                colour,
                HPos::Left,
            );
        }
    })
}

fn tick(value: f64) -> String {
    if value >= 1.0 || value == 0.0 {
        format!("{value:.0}")
    } else {
        format!("{value}")
    }
}

/// A curve and its name.
pub type Curve<'a> = (&'a str, Vec<(usize, Summary)>, bool);

/// Draws curves on two logarithmic axes.
pub fn curves(title: &str, [x_unit, y_unit]: [&str; 2], curves: &[Curve]) -> String {
    let points = curves.iter().flat_map(|(_, points, _)| points);
    let ends = points.clone().flat_map(|(_, it)| [it.least, it.greatest]);
    let counts = points.clone().map(|(count, _)| as_float(*count));
    let (from, to) = decades(ends);
    let y_axis = Axis {
        from,
        to,
        is_logarithmic: true,
        pixels: (370, 60),
    };
    let (least, greatest) = (
        counts.clone().fold(f64::INFINITY, f64::min),
        counts.clone().fold(1.0, f64::max),
    );
    let x_axis = Axis {
        from: least,
        to: greatest.max(least * 1.1),
        is_logarithmic: true,
        pixels: (90, 640),
    };
    card(430, title, |area| {
        for mark in y_axis.marks() {
            let y = y_axis.at(mark);
            line(area, [(80, y), (650, y)], FAINT);
            write(area, (72, y), &tick(mark), SMALL, INK, HPos::Right);
        }
        let mut marks: Vec<_> = counts.collect();
        marks.sort_by(f64::total_cmp);
        marks.dedup();
        for mark in marks {
            write(
                area,
                (x_axis.at(mark), 386),
                &tick(mark),
                SMALL,
                INK,
                HPos::Center,
            );
        }
        write(area, (365, 410), x_unit, SMALL, INK, HPos::Center);
        write(area, (18, 48), y_unit, SMALL, INK, HPos::Left);
        for (name, points, is_ours) in curves {
            let colour = if *is_ours { OURS } else { PEER };
            let medians: Vec<_> = points
                .iter()
                .map(|(count, it)| (x_axis.at(as_float(*count)), y_axis.at(it.median)))
                .collect();
            for ((_, it), (x, _)) in points.iter().zip(&medians) {
                let ends = [(*x, y_axis.at(it.least)), (*x, y_axis.at(it.greatest))];
                line(area, ends, colour.mix(0.4).stroke_width(2));
            }
            for at in &medians {
                area.draw(&Circle::new(*at, 4, colour.filled()))
                    .expect("an image");
            }
            if let Some((x, y)) = medians.last() {
                let label = (x + 14, *y);
                write(
                    area,
                    label,
                    &name.replace('`', ""),
                    SMALL,
                    colour,
                    HPos::Left,
                );
            }
            area.draw(&PathElement::new(medians, colour.stroke_width(2)))
                .expect("an image");
        }
    })
}

fn as_float(count: usize) -> f64 {
    u32::try_from(count).map(f64::from).expect("a small number")
}

/// Draws what happened, one entry below the other.
pub fn timeline(title: &str, entries: &[Entry]) -> String {
    const ROW: i32 = 21;
    const TOP: i32 = 84;
    /// What fits beside the marks.
    const LONGEST: usize = 80;
    let count = i32::try_from(entries.len()).expect("few");
    let (from, to) = match entries {
        [first, .., last] => (first.milliseconds.min(0.0), last.milliseconds),
        _ => (0.0, 1.0),
    };
    let axis = Axis {
        from,
        to,
        is_logarithmic: false,
        pixels: (24, 250),
    };
    let bottom = TOP + count * ROW;
    card((bottom + 44).cast_unsigned(), title, |area| {
        let mut x = 24;
        for (lane, colour) in LANES.iter().zip(LANE_COLOURS) {
            area.draw(&Circle::new((x, 56), 5, colour.filled()))
                .expect("an image");
            write(area, (x + 12, 56), lane, SMALL, colour, HPos::Left);
            x += 190;
        }
        write_marks(area, &axis, TOP - 8, bottom);
        write(
            area,
            (137, bottom + 32),
            "ms after SIGKILL",
            SMALL,
            INK,
            HPos::Center,
        );
        for (number_, entry) in (0..).zip(entries) {
            let y = TOP + number_ * ROW + ROW / 2;
            let (x, colour) = (axis.at(entry.milliseconds), LANE_COLOURS[entry.lane]);
            line(area, [(x, y), (262, y)], colour.mix(0.25));
            area.draw(&Circle::new((x, y), 4, colour.filled()))
                .expect("an image");
            let time = format!("{:.1}", entry.milliseconds);
            write(area, (318, y), &time, SMALL, colour, HPos::Right);
            let mut text: String = entry.text.chars().take(LONGEST).collect();
            if text.len() < entry.text.len() {
                text.push('…');
            }
            write(area, (330, y), &text, SMALL, colour, HPos::Left);
        }
    })
}
