//! Plots over time as SVG without scripts. Lines stretch with the page; labels are
//! text of the page beside them, so that they stay readable at any width.

use std::fmt::{self, Display};
use std::time::Duration;

use super::series::as_float;
use crate::harness::html::{Escaped, HtmlTable};

/// The styles of plots.
pub(super) const PLOT_STYLE: &str = "
.plot{margin:1.8rem 0}
.plot figcaption{font-weight:600}
.plot figcaption .unit{font-weight:400}
.legend{display:flex;flex-wrap:wrap;gap:.1rem 1.2rem;list-style:none;padding:0;margin:.2rem 0 .5rem;
font-size:.875rem}
.legend i{display:inline-block;width:1.2rem;height:.2rem;margin-right:.4rem;vertical-align:middle}
.canvas{display:grid;grid-template-columns:max-content minmax(0,1fr);column-gap:.5rem}
.canvas svg{display:block;width:100%;height:13rem}
.axis{position:relative;font-size:.75rem;color:var(--faint);font-variant-numeric:tabular-nums}
.axis span{position:absolute;white-space:nowrap}
.axis.y{text-align:right}.axis.y b{display:block;height:0;overflow:hidden;font-weight:400}
.axis.y span{right:0;transform:translateY(50%);line-height:1}
.axis.x,.axis.top{grid-column:2}.axis.x{height:1.3rem}
.axis.x span{transform:translateX(-50%)}
.axis.x .first{transform:none}.axis.x .last{transform:translateX(-100%)}
.axis.top .late{transform:translateX(-100%)}
.plot path{fill:none;stroke-width:1.6;stroke-linejoin:round;vector-effect:non-scaling-stroke}
.plot .grid{stroke:var(--line);stroke-width:1}
.plot .mark{stroke:var(--faint);stroke-width:1;stroke-dasharray:3 3}
.plot .band{fill:var(--band)}
.plot .seen{fill:transparent}.plot .seen:hover{fill:var(--band)}
.plot path.one{stroke:var(--one)}.plot path.two{stroke:var(--two)}
.plot path.three{stroke:var(--three)}.plot path.four{stroke:var(--four)}
i.one{background:var(--one)}i.two{background:var(--two)}
i.three{background:var(--three)}i.four{background:var(--four)}
@media(max-width:36rem){.axis.x .odd{display:none}.canvas svg{height:10rem}}
";

/// Width and height of the drawing, in units of its own.
const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 300.0;
/// Times that show their values when pointed at, and the rows of the table.
const COLUMNS: usize = 48;
const ROWS: usize = 24;
/// The number of rows for the names of bands and marks, which would overlap in a single row.
const NAME_ROWS: usize = 4;
/// The height of such a row, in rem.
const NAME_ROW: f64 = 1.15;
const CLASSES: [&str; 4] = ["one", "two", "three", "four"];

/// Lines over time.
#[derive(Debug)]
pub(super) struct Plot {
    pub(super) title: &'static str,
    /// Of the values, for people.
    pub(super) unit: &'static str,
    /// How long the whole width is.
    pub(super) span: Duration,
    /// Up to four.
    pub(super) lines: Vec<PlotLine>,
    /// Times to shade, with their names.
    pub(super) bands: Vec<(Duration, Duration, String)>,
    /// Moments to mark, with their names.
    pub(super) marks: Vec<(Duration, String)>,
    /// A value as text.
    pub(super) shown: fn(f64) -> String,
}

/// A line: equally long times over the whole span.
#[derive(Debug)]
pub(super) struct PlotLine {
    pub(super) name: &'static str,
    /// `None` where there is nothing to show.
    pub(super) values: Vec<Option<f64>>,
}

impl Plot {
    fn highest(&self) -> f64 {
        let values = self.lines.iter().flat_map(|line| line.values.iter().flatten());
        values.copied().fold(0.0, f64::max)
    }

    /// Where a time lies, from 0 to 1.
    fn place(&self, at: Duration) -> f64 {
        let span = self.span.as_secs_f64();
        if span > 0.0 { (at.as_secs_f64() / span).clamp(0.0, 1.0) } else { 0.0 }
    }

    fn drawing(&self, f: &mut fmt::Formatter<'_>, top: f64, step: f64) -> fmt::Result {
        let title = Escaped(self.title);
        write!(
            f,
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" preserveAspectRatio=\"none\" role=\"img\" \
             aria-label=\"{title}\"><title>{title}</title><desc>{}</desc>",
            Escaped(self.described())
        )?;
        for (from, to, _) in &self.bands {
            let (x, end) = (WIDTH * self.place(*from), WIDTH * self.place(*to));
            let width = end - x;
            write!(
                f,
                "<rect class=\"band\" x=\"{x:.1}\" y=\"0\" width=\"{width:.1}\" height=\"{HEIGHT}\"/>"
            )?;
        }
        for tick in ticks(top, step) {
            let y = HEIGHT * (1.0 - tick / top);
            write!(f, "<path class=\"grid\" d=\"M0 {y:.1}H{WIDTH}\"/>")?;
        }
        for (at, _) in &self.marks {
            write!(f, "<path class=\"mark\" d=\"M{:.1} 0V{HEIGHT}\"/>", WIDTH * self.place(*at))?;
        }
        for (line, class) in self.lines.iter().zip(CLASSES) {
            write!(f, "<path class=\"{class}\" d=\"")?;
            let across = WIDTH / number(line.values.len().max(1));
            let mut pen = 'M';
            for (place, value) in line.values.iter().enumerate() {
                let Some(value) = value else {
                    pen = 'M';
                    continue;
                };
                let (x, y) = ((number(place) + 0.5) * across, HEIGHT * (1.0 - value / top));
                write!(f, "{pen}{x:.1} {y:.1}")?;
                pen = 'L';
            }
            f.write_str("\"/>")?;
        }
        let width = WIDTH / number(COLUMNS);
        for column in 0..COLUMNS {
            let x = width * number(column);
            write!(
                f,
                "<rect class=\"seen\" x=\"{x:.1}\" y=\"0\" width=\"{width:.1}\" height=\"{HEIGHT}\">\
                 <title>{}",
                clock_time(self.span.mul_f64(number(column) / number(COLUMNS)))
            )?;
            for line in &self.lines {
                if let Some(mean) = line.mean(column, COLUMNS) {
                    write!(f, "\n{}: {}", Escaped(line.name), Escaped((self.shown)(mean)))?;
                }
            }
            f.write_str("</title></rect>")?;
        }
        f.write_str("</svg>")
    }

    /// The plot in words, for those who do not see it.
    fn described(&self) -> String {
        let lines = self.lines.iter().map(|line| {
            let highest = line.values.iter().flatten().copied().fold(0.0, f64::max);
            format!("{}: at most {} {}", line.name, (self.shown)(highest), self.unit)
        });
        lines.collect::<Vec<_>>().join("; ")
    }

    fn names(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.bands.is_empty() && self.marks.is_empty() {
            return Ok(());
        }
        let bands = self.bands.iter().map(|(from, _, name)| (*from, name));
        let mut names: Vec<_> =
            bands.chain(self.marks.iter().map(|(at, name)| (*at, name))).collect();
        names.sort();
        let height = NAME_ROW * number(names.len().min(NAME_ROWS));
        write!(f, "<div class=\"axis top\" style=\"height:{height:.2}rem\">")?;
        for (place, (at, name)) in names.into_iter().enumerate() {
            let top = NAME_ROW * number(place % NAME_ROWS);
            let left = self.place(at);
            let class = if left > 0.65 { " class=\"late\"" } else { "" };
            write!(
                f,
                "<span{class} style=\"left:{:.2}%;top:{top:.2}rem\">{}</span>",
                left * 100.0,
                Escaped(name)
            )?;
        }
        f.write_str("</div>")
    }

    fn table(&self) -> HtmlTable {
        let rows = self.lines.iter().map(|line| line.values.len()).max().unwrap_or(0).min(ROWS);
        let shown = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), self.shown);
        HtmlTable {
            caption: format!("{} ({}), averages from each time on", self.title, self.unit),
            columns: std::iter::once("from")
                .chain(self.lines.iter().map(|line| line.name))
                .map(str::to_owned)
                .collect(),
            numbers: (0..=self.lines.len()).collect(),
            rows: (0..rows)
                .map(|row| {
                    let from = clock_time(self.span.mul_f64(number(row) / number(rows)));
                    let means = self.lines.iter().map(|line| shown(line.mean(row, rows)));
                    std::iter::once(from).chain(means).collect()
                })
                .collect(),
        }
    }
}

impl PlotLine {
    /// Whether it is ever above zero.
    pub(super) fn is_seen(&self) -> bool {
        self.values.iter().flatten().any(|value| *value > 0.0)
    }

    /// The mean of one of `of` equally long parts; `None` if nothing is in it.
    fn mean(&self, part: usize, of: usize) -> Option<f64> {
        let bound = |part: usize| part * self.values.len() / of;
        let values = self.values.get(bound(part)..bound(part + 1))?;
        let known: Vec<f64> = values.iter().flatten().copied().collect();
        (!known.is_empty()).then(|| known.iter().sum::<f64>() / number(known.len()))
    }
}

impl Display for Plot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (top, step) = scale(self.highest());
        write!(
            f,
            "<figure class=\"plot\"><figcaption>{} <span class=\"unit\">{}</span></figcaption>\
             <ul class=\"legend\">",
            Escaped(self.title),
            Escaped(self.unit)
        )?;
        for (line, class) in self.lines.iter().zip(CLASSES) {
            write!(f, "<li><i class=\"{class}\"></i>{}</li>", Escaped(line.name))?;
        }
        f.write_str("</ul><div class=\"canvas\">")?;
        self.names(f)?;
        f.write_str("<div class=\"axis y\" aria-hidden=\"true\">")?;
        // These hidden labels make the axis as wide as its widest label.
        for tick in ticks(top, step) {
            write!(f, "<b>{}</b>", Escaped((self.shown)(tick)))?;
        }
        for tick in ticks(top, step) {
            let at = 100.0 * tick / top;
            write!(f, "<span style=\"bottom:{at:.2}%\">{}</span>", Escaped((self.shown)(tick)))?;
        }
        f.write_str("</div>")?;
        self.drawing(f, top, step)?;
        f.write_str("<div class=\"axis x\" aria-hidden=\"true\">")?;
        let step = time_step(self.span);
        let mut at = Duration::ZERO;
        let mut label = 0;
        while at <= self.span {
            let place = self.place(at);
            let edge = match place {
                0.0 => " first",
                place if place > 0.97 => " last",
                _ => "",
            };
            let odd = if label % 2 == 1 { "odd" } else { "" };
            let time = clock_time(at);
            write!(
                f,
                "<span class=\"{odd}{edge}\" style=\"left:{:.2}%\">{time}</span>",
                place * 100.0
            )?;
            at += step;
            label += 1;
        }
        write!(
            f,
            "</div></div><details><summary>Figures</summary>{}</details></figure>",
            self.table()
        )
    }
}

/// A place or a count as a number to divide.
const fn number(of: usize) -> f64 {
    as_float(of as u64)
}

/// The top of an axis for values up to `highest`, and the step of its ticks.
fn scale(highest: f64) -> (f64, f64) {
    if highest <= 0.0 || !highest.is_finite() {
        return (1.0, 1.0);
    }
    let rough = highest / 4.0;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].map(|n| n * power);
    let step = step.into_iter().find(|step| *step >= rough * 0.999).unwrap_or(10.0 * power);
    ((highest / step).ceil() * step, step)
}

fn ticks(top: f64, step: f64) -> impl Iterator<Item = f64> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a scale has a few ticks"
    )]
    let last = (top / step).round() as u32;
    (0..=last).map(move |tick| f64::from(tick) * step)
}

/// A step of which about six make the span.
fn time_step(span: Duration) -> Duration {
    let steps = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21_600, 43_200];
    let fits = |secs: &u64| span <= Duration::from_secs(secs * 8);
    Duration::from_secs(steps.into_iter().find(fits).unwrap_or(86_400))
}

/// Minutes and seconds, or hours and minutes, since the start.
fn clock_time(at: Duration) -> String {
    let secs = at.as_secs();
    match secs {
        0..3600 => format!("{}:{:02}", secs / 60, secs % 60),
        _ => format!("{}:{:02}:{:02}", secs / 3600, secs / 60 % 60, secs % 60),
    }
}

#[cfg(test)]
mod tests;
