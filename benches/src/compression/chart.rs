//! Lines in an SVG: figures against counts of clients, on a logarithmic axis of counts.

/// One panel.
#[derive(Debug)]
pub(super) struct Panel {
    pub(super) title: &'static str,
    pub(super) lines: Vec<Line>,
}

/// One line, through points of ascending counts.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) name: &'static str,
    pub(super) points: Vec<(usize, f64)>,
}

const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 90.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 40.0;
const COLOURS: [&str; 5] = ["#4c566a", "#1b7f5c", "#b3541e", "#5b3fa0", "#a0253f"];

/// The panels side by side.
pub(super) fn svg(panels: &[Panel]) -> String {
    let width = WIDTH * panels.len() as f64;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (i, panel) in panels.iter().enumerate() {
        text += &format!("<g transform=\"translate({},0)\">\n", WIDTH * i as f64);
        push_panel(&mut text, panel);
        text += "</g>\n";
    }
    text + "</svg>\n"
}

fn push_panel(text: &mut String, panel: &Panel) {
    let points = || panel.lines.iter().flat_map(|line| &line.points);
    let counts = points().map(|&(count, _)| (count.max(1) as f64).log10());
    let (low, high) =
        counts.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), at| (low.min(at), high.max(at)));
    let top =
        points().map(|&(_, figure)| figure).filter(|figure| figure.is_finite()).fold(0.0, f64::max) * 1.1;
    let top = if top > 0.0 { top } else { 1.0 };
    let x = |count: usize| {
        let part = if high > low { ((count.max(1) as f64).log10() - low) / (high - low) } else { 0.5 };
        LEFT + part * (WIDTH - LEFT - RIGHT)
    };
    let y = |figure: f64| HEIGHT - BOTTOM - figure / top * (HEIGHT - TOP - BOTTOM);
    let (right, base) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    *text += &format!("<text x=\"{LEFT}\" y=\"20\" font-size=\"13\">{}</text>\n", panel.title);
    for step in 0..=4 {
        let figure = top * f64::from(step) / 4.0;
        let at = y(figure);
        *text += &format!(
            "<path d=\"M{LEFT} {at:.1}H{right}\" stroke=\"#ddd\"/><text x=\"{:.1}\" y=\"{:.1}\" \
             text-anchor=\"end\">{figure:.3}</text>\n",
            LEFT - 6.0,
            at + 4.0
        );
    }
    let mut counts: Vec<usize> = points().map(|&(count, _)| count).collect();
    counts.sort_unstable();
    counts.dedup();
    for count in counts {
        *text += &format!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{count}</text>\n",
            x(count),
            base + 18.0
        );
    }
    for (line, colour) in panel.lines.iter().zip(COLOURS.iter().cycle()) {
        push_line(text, line, colour, (&x, &y));
    }
}

fn push_line(
    text: &mut String,
    line: &Line,
    colour: &str,
    (x, y): (&impl Fn(usize) -> f64, &impl Fn(f64) -> f64),
) {
    let points: Vec<String> = line
        .points
        .iter()
        .filter(|(_, figure)| figure.is_finite())
        .map(|&(count, figure)| format!("{:.1},{:.1}", x(count), y(figure)))
        .collect();
    *text += &format!(
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\n",
        points.join(" ")
    );
    for point in &points {
        if let Some((at_x, at_y)) = point.split_once(',') {
            *text += &format!("<circle cx=\"{at_x}\" cy=\"{at_y}\" r=\"3\" fill=\"{colour}\"/>\n");
        }
    }
    if let Some(&(count, figure)) = line.points.last().filter(|(_, figure)| figure.is_finite()) {
        let (at_x, at_y) = (x(count) + 8.0, y(figure) + 4.0);
        *text += &format!("<text x=\"{at_x:.1}\" y=\"{at_y:.1}\" fill=\"{colour}\">{}</text>\n", line.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn larger_figures_are_higher_and_larger_counts_further_right() {
        let line = Line { name: "zstd", points: vec![(100, 1.0), (1_000, 4.0)] };
        let svg = svg(&[Panel { title: "cost", lines: vec![line] }]);
        let points = svg.split("points=\"").nth(1).unwrap().split('"').next().unwrap();
        let points: Vec<(f64, f64)> = points
            .split(' ')
            .map(|point| point.split_once(',').unwrap())
            .map(|(x, y)| (x.parse().unwrap(), y.parse().unwrap()))
            .collect();
        assert_eq!(points.len(), 2);
        assert!(points[0].0 < points[1].0 && points[0].1 > points[1].1, "{points:?}");
        assert!(svg.contains(">1000</text>") && svg.contains(">zstd</text>") && svg.contains(">cost</text>"));
        assert_eq!(svg.matches("<g").count(), svg.matches("</g>").count());
    }

    #[test]
    fn one_count_or_nothing_measured_is_drawn_without_figures_that_are_none() {
        let one = Line { name: "one", points: vec![(100, 0.0)] };
        let none = Line { name: "none", points: vec![(100, f64::NAN)] };
        for lines in [vec![], vec![one], vec![none]] {
            let svg = svg(&[Panel { title: "cost", lines }]);
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }
}
