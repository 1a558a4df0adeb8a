//! Charts: an SVG stretched to the width there is, its words beside it in HTML, so that they stay readable on a telephone.

use std::fmt::Write as _;

/// Units of the SVG's sides.
const SIDE: f64 = 1000.0;
/// Ticks of an axis, at most, both ends included.
const TICKS_MAX: f64 = 5.0;

/// A straight axis from `from` to `to`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Axis {
    pub(super) from: f64,
    pub(super) to: f64,
}

impl Axis {
    /// From zero to the next round number above `top`.
    pub(super) fn up_to(top: f64) -> Self {
        let step = round_step(top.max(1e-6));
        Self { from: 0.0, to: (top.max(1e-6) / step - 1e-9).ceil() * step }
    }

    /// Where a value stands, 0 to 1; what is outside stands at the end.
    fn place(self, value: f64) -> f64 {
        ((value - self.from) / (self.to - self.from)).clamp(0.0, 1.0)
    }

    fn ticks(self) -> Vec<f64> {
        let step = round_step(self.to - self.from);
        let count = ((self.to - self.from) / step + 1e-9).floor() as u32;
        (0..=count).map(|tick| self.from + step * f64::from(tick)).collect()
    }
}

/// 1, 2 or 5 times a power of ten, so that it takes at most four of them to reach `span`.
fn round_step(span: f64) -> f64 {
    let rough = span / (TICKS_MAX - 1.0);
    let power = 10_f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().find(|factor| factor * power >= rough * (1.0 - 1e-9));
    factor.unwrap_or(10.0) * power
}

/// A chart under construction.
#[derive(Debug)]
pub(super) struct Chart {
    title: String,
    note: String,
    x: Axis,
    y: Axis,
    /// Behind the grid.
    back: String,
    svg: String,
    labels: String,
    tall: bool,
}

impl Chart {
    pub(super) fn new(title: &str, note: &str, x: Axis, y: Axis) -> Self {
        let (back, svg, labels) = (String::new(), String::new(), String::new());
        Self { title: title.to_owned(), note: note.to_owned(), x, y, back, svg, labels, tall: false }
    }

    pub(super) fn tall(self) -> Self {
        Self { tall: true, ..self }
    }

    fn at(&self, (x, y): (f64, f64)) -> (f64, f64) {
        (self.x.place(x) * SIDE, (1.0 - self.y.place(y)) * SIDE)
    }

    fn path(&self, points: impl Iterator<Item = (f64, f64)>) -> String {
        let mut path = String::new();
        for (index, point) in points.enumerate() {
            let (x, y) = self.at(point);
            let step = if index == 0 { 'M' } else { 'L' };
            write!(path, "{step}{x:.1} {y:.1}").unwrap_or_default();
        }
        path
    }

    /// A line through the points.
    pub(super) fn line(&mut self, points: &[(f64, f64)], color: &str) {
        let path = self.path(points.iter().copied());
        write!(self.svg, "<path class=line d='{path}' style='stroke:{color}'/>").unwrap_or_default();
    }

    /// The area between two lines over the same places: `(x, lower, upper)`.
    pub(super) fn band(&mut self, points: &[(f64, f64, f64)], color: &str) {
        let upper = points.iter().map(|(x, _, upper)| (*x, *upper));
        let lower = points.iter().rev().map(|(x, lower, _)| (*x, *lower));
        let path = self.path(upper.chain(lower));
        write!(self.svg, "<path d='{path}Z' style='fill:{color}'/>").unwrap_or_default();
    }

    /// Pale bars from zero up, one for each point, side by side.
    pub(super) fn bars(&mut self, points: &[(f64, f64)], color: &str) {
        let gap = (self.x.to - self.x.from) / points.len().max(1) as f64;
        let mut path = String::new();
        for (x, y) in points {
            let (left, top) = self.at((x - gap * 0.42, *y));
            let (right, _) = self.at((x + gap * 0.42, *y));
            write!(path, "M{left:.1} {SIDE}V{top:.1}H{right:.1}V{SIDE}Z").unwrap_or_default();
        }
        write!(self.svg, "<path class=faint d='{path}' style='fill:{color}'/>").unwrap_or_default();
    }

    /// A band behind everything, over all of y.
    pub(super) fn shade(&mut self, from: f64, to: f64) {
        let (left, right) = (self.at((from, 0.0)).0, self.at((to, 0.0)).0);
        let width = right - left;
        write!(self.back, "<rect class=measured x='{left:.1}' y='0' width='{width:.1}' height='{SIDE}'/>")
            .unwrap_or_default();
    }

    /// A dashed line over all of y.
    pub(super) fn mark(&mut self, x: f64, color: &str) {
        let at = self.at((x, 0.0)).0;
        write!(self.svg, "<path class=mark d='M{at:.1} 0V{SIDE}' style='stroke:{color}'/>").unwrap_or_default();
    }

    /// A dotted line over all of x, with a word on it.
    pub(super) fn limit_y(&mut self, y: f64, word: &str) {
        let at = self.at((0.0, y)).1;
        write!(self.svg, "<path class=limit d='M0 {at:.1}H{SIDE}'/>").unwrap_or_default();
        write!(self.labels, "<em class=left style='left:100%;bottom:{:.2}%'>{word}</em>", self.y.place(y) * 100.0)
            .unwrap_or_default();
    }

    /// A dotted line over all of y, with a word at its foot.
    pub(super) fn limit_x(&mut self, x: f64, word: &str) {
        let at = self.at((x, 0.0)).0;
        write!(self.svg, "<path class=limit d='M{at:.1} 0V{SIDE}'/>").unwrap_or_default();
        write!(self.labels, "<em style='left:{:.2}%;bottom:0'>{word}</em>", self.x.place(x) * 100.0)
            .unwrap_or_default();
    }

    /// A dot with a word beside it.
    pub(super) fn dot(&mut self, (x, y): (f64, f64), color: &str, word: &str) {
        let (left, bottom) = (self.x.place(x) * 100.0, self.y.place(y) * 100.0);
        // Words stand on the side where there is room.
        let class = if left > 60.0 { " class=left" } else { "" };
        let (down, margin) = (100.0 - bottom, if left > 60.0 { -0.5 } else { 0.5 });
        write!(
            self.labels,
            "<u style='left:{left:.2}%;top:{down:.2}%;background:{color}'></u>\
             <em{class} style='left:{left:.2}%;top:{down:.2}%;margin:-.7em {margin}rem'>{word}</em>"
        )
        .unwrap_or_default();
    }

    /// The figure; `x_word` and `y_word` write a tick, `unit` stands under the axis.
    pub(super) fn html(self, x_word: impl Fn(f64) -> String, y_word: impl Fn(f64) -> String, unit: &str) -> String {
        let (mut grid, mut left, mut below) = (String::new(), String::new(), String::new());
        for tick in self.y.ticks() {
            let (place, at) = (self.y.place(tick) * 100.0, self.at((0.0, tick)).1);
            write!(grid, "<path class=grid d='M0 {at:.1}H{SIDE}'/>").unwrap_or_default();
            write!(left, "<span style='bottom:{place:.2}%'>{}</span>", y_word(tick)).unwrap_or_default();
        }
        for tick in self.x.ticks() {
            write!(below, "<span style='left:{:.2}%'>{}</span>", self.x.place(tick) * 100.0, x_word(tick))
                .unwrap_or_default();
        }
        let unit = if unit.is_empty() { String::new() } else { format!("<div class=unit>{unit}</div>") };
        let class = if self.tall { "chart tall" } else { "chart" };
        let Self { title, note, back, svg, labels, .. } = self;
        format!(
            "<figure class='{class}'><figcaption>{title} <span>{note}</span></figcaption><div class=plot>\
             <div class=y>{left}</div><div class=area>\
             <svg viewBox='0 0 {SIDE} {SIDE}' preserveAspectRatio=none role=img aria-label='{title}'>{back}{grid}{svg}</svg>\
             {labels}</div><div class=x>{below}</div>{unit}</div></figure>\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers_and_have_few_ticks() {
        assert_eq!(Axis::up_to(0.043), Axis { from: 0.0, to: 0.06 });
        assert_eq!(Axis::up_to(1.0), Axis { from: 0.0, to: 1.0 });
        assert_eq!(Axis { from: 0.0, to: 20_000.0 }.ticks(), [0.0, 5000.0, 10_000.0, 15_000.0, 20_000.0]);
        for top in [1e-9, 0.0, 0.011, 0.26, 0.51, 3.0, 18_330.0, 1e7] {
            let axis = Axis::up_to(top);
            assert!(axis.to >= top && (2..=6).contains(&axis.ticks().len()), "{top}: {axis:?}");
        }
    }
}
