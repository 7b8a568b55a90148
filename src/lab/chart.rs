//! A curve as an SVG: what grows on a logarithmic axis, and what that does to one or several figures.

use std::fmt::Write as _;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 340.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 30.0;
const TOP: f64 = 60.0;
const BOTTOM: f64 = 60.0;
const COLOURS: [&str; 4] = ["#1f77b4", "#d62728", "#2ca02c", "#9467bd"];

/// One line of a chart.
pub(super) struct Line {
    pub name: String,
    /// By what grows.
    pub points: Vec<(f64, f64)>,
}

pub(super) struct Chart<'a> {
    pub title: &'a str,
    /// What grows, and what is measured with its unit.
    pub x: &'a str,
    pub y: &'a str,
    pub lines: &'a [Line],
}

impl Chart<'_> {
    pub fn draw(&self) -> String {
        let all = || self.lines.iter().flat_map(|line| &line.points);
        let (least, most) = all().fold((f64::INFINITY, 1.0_f64), |(least, most), (x, _)| (least.min(*x), most.max(*x)));
        let top = step(all().fold(0.0_f64, |top, (_, y)| top.max(*y)));
        let (least, most) = (least.max(1.0).log10(), most.log10());
        let across = |x: f64| LEFT + (x.max(1.0).log10() - least) / (most - least).max(0.01) * (WIDTH - LEFT - RIGHT);
        let up = |y: f64| HEIGHT - BOTTOM - y / (top * 5.0) * (HEIGHT - TOP - BOTTOM);
        let mut out = format!(
            "<svg xmlns='http://www.w3.org/2000/svg' width='{WIDTH}' height='{HEIGHT}' font-family='sans-serif' font-size='12'>\n\
             <rect width='100%' height='100%' fill='white'/>\n<text x='{LEFT}' y='20' font-weight='bold'>{}</text>\n\
             <text x='{LEFT}' y='{}'>{} (logarithmic)</text>\n<text x='10' y='{}' font-size='11'>{}</text>\n",
            escape(self.title),
            HEIGHT - 12.0,
            escape(self.x),
            TOP - 14.0,
            escape(self.y)
        );
        for n in 0..=5 {
            let value = top * f64::from(n);
            let _ = writeln!(
                out,
                "<line x1='{LEFT}' x2='{}' y1='{2:.1}' y2='{2:.1}' stroke='#ddd'/><text x='{1}' y='{3:.1}' text-anchor='end'>{4}</text>",
                WIDTH - RIGHT,
                LEFT - 6.0,
                up(value),
                up(value) + 4.0,
                number(value)
            );
        }
        let mut marked: Vec<f64> = all().map(|(x, _)| *x).collect();
        marked.sort_by(f64::total_cmp);
        marked.dedup();
        for x in marked {
            let _ = writeln!(
                out,
                "<text x='{:.1}' y='{}' text-anchor='middle'>{}</text>",
                across(x),
                HEIGHT - BOTTOM + 18.0,
                number(x)
            );
        }
        for (line, (colour, at)) in self.lines.iter().zip(COLOURS.iter().cycle().zip(0_u8..)) {
            let points: Vec<String> =
                line.points.iter().map(|(x, y)| format!("{:.1},{:.1}", across(*x), up(*y))).collect();
            let _ = writeln!(
                out,
                "<polyline points='{}' fill='none' stroke='{colour}' stroke-width='2'/>",
                points.join(" ")
            );
            for (x, y) in &line.points {
                let _ = writeln!(
                    out,
                    "<circle cx='{:.1}' cy='{:.1}' r='3' fill='{colour}'/><text x='{:.1}' y='{:.1}' font-size='10' text-anchor='middle'>{}</text>",
                    across(*x),
                    up(*y),
                    across(*x),
                    up(*y) - 7.0,
                    number(*y)
                );
            }
            let x = LEFT + 180.0 * f64::from(at);
            let _ = writeln!(
                out,
                "<rect x='{x}' y='28' width='12' height='4' fill='{colour}'/><text x='{}' y='34'>{}</text>",
                x + 17.0,
                escape(&line.name)
            );
        }
        out.push_str("</svg>\n");
        out
    }
}

/// A fifth of what the axis shows, 1, 2, 2.5 or 5 times a power of ten, so that this much has room.
fn step(most: f64) -> f64 {
    let least = (most * 1.05 / 5.0).max(1e-9);
    let power = 10_f64.powf(least.log10().floor());
    [1.0, 2.0, 2.5, 5.0, 10.0].iter().map(|n| n * power).find(|step| *step >= least).unwrap_or(least)
}

/// With commas between thousands.
fn number(value: f64) -> String {
    if value > 0.0 && value < 10.0 && value.fract() != 0.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_larger_stands_higher_and_further_to_the_right_and_each_point_says_its_number() {
        let lines = [Line { name: "a < b".to_owned(), points: vec![(1000.0, 12_345.0), (1e6, 400.0)] }];
        let drawn = Chart { title: "t", x: "users", y: "messages", lines: &lines }.draw();
        for said in ["12,345", "1,000,000", "a &lt; b", "polyline"] {
            assert!(drawn.contains(said), "{said}: {drawn}");
        }
        let points = drawn.split("points='").nth(1).and_then(|rest| rest.split('\'').next()).expect("points");
        let numbers: Vec<f64> = points.split([' ', ',']).map(|n| n.parse().expect("a number")).collect();
        let [x1, y1, x2, y2] = numbers[..] else { panic!("{points}") };
        assert!(x1 < x2 && y1 < y2 && x2 <= WIDTH - RIGHT && y1 >= TOP, "{points}");
    }

    #[test]
    fn an_axis_has_room_for_what_it_shows_and_round_numbers() {
        for (most, expected) in [(12_345.0, 5000.0), (95.0, 20.0), (1.0, 0.25), (9600.0, 2500.0)] {
            assert!((step(most) - expected).abs() < 1e-9, "{most}: {}", step(most));
        }
    }
}
