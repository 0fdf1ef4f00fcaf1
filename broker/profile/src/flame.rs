//! A profile as a flame graph: the root at the bottom, each frame above its caller and as wide as its share.
//!
//! Plain SVG without scripts, so that it shows wherever pictures show; what a frame is called and what it costs is its
//! tooltip. Frames that would be narrower than a fifth of a pixel are not drawn. Names come from binaries and threads
//! and are escaped.

use crate::limits::RECTANGLES_MAX;
use crate::profile::Profile;
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;

const WIDTH: f64 = 1_200.0;
const ROW: f64 = 17.0;
const MARGIN: f64 = 10.0;
/// Room for the title above and the notes below.
const HEAD: f64 = 44.0;
const NARROWEST: f64 = 0.2;
const CHARACTER: f64 = 6.6;

/// One frame in the place where it was called.
#[derive(Default)]
struct Node<'a> {
    value: i64,
    callees: BTreeMap<&'a str, Self>,
}

impl<'a> Node<'a> {
    fn of(profile: &'a Profile) -> Self {
        let mut root = Self::default();
        for sample in &profile.samples {
            let value = sample.values.get(profile.main_kind).copied().unwrap_or(0);
            if value <= 0 {
                continue;
            }
            root.value += value;
            let mut node = &mut root;
            let frames = sample.stack.iter().rev().filter_map(|place| profile.frames.get(*place as usize));
            let names = sample.thread.iter().map(|thread| &**thread).chain(frames.map(|frame| &*frame.name));
            for name in names {
                node = node.callees.entry(name).or_default();
                node.value += value;
            }
        }
        root
    }
}

/// A frame with its place: how deep, from where and how wide.
struct Rectangle<'a> {
    name: &'a str,
    value: i64,
    depth: u32,
    left: f64,
    width: f64,
}

#[expect(clippy::cast_precision_loss, reason = "shares are drawn, not counted")]
fn lay_out<'a>(root: &Node<'a>) -> Vec<Rectangle<'a>> {
    let mut rectangles: Vec<Rectangle<'a>> = Vec::new();
    let mut next: VecDeque<(&'a str, &Node<'a>, u32, f64)> = [("all", root, 0, MARGIN)].into();
    let scale = (WIDTH - 2.0 * MARGIN) / (root.value.max(1) as f64);
    while let Some((name, node, depth, left)) = next.pop_front() {
        let width = node.value as f64 * scale;
        if width < NARROWEST || rectangles.len() == RECTANGLES_MAX {
            continue;
        }
        rectangles.push(Rectangle { name, value: node.value, depth, left, width });
        let mut callee_left = left;
        for (name, callee) in &node.callees {
            next.push_back((name, callee, depth + 1, callee_left));
            callee_left += callee.value as f64 * scale;
        }
    }
    rectangles
}

pub(crate) fn svg(profile: &Profile, title: &str) -> String {
    let root = Node::of(profile);
    let rectangles = lay_out(&root);
    let depth = rectangles.iter().map(|rectangle| rectangle.depth).max().unwrap_or(0);
    let rows = f64::from(depth + 1) * ROW;
    let height = HEAD + rows + MARGIN + ROW * (profile.notes.len() + 1) as f64;
    let unit = profile.kinds.get(profile.main_kind).map_or("", |kind| kind.unit);
    let mut out = String::new();
    // Writing to a string has no errors.
    _ = write!(
        out,
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"monospace\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fffdf5\"/>\n\
         <text x=\"{MARGIN}\" y=\"26\" font-size=\"16\">{}</text>\n",
        escaped(title)
    );
    for rectangle in &rectangles {
        draw(&mut out, rectangle, (HEAD + rows, root.value, unit));
    }
    if rectangles.is_empty() {
        _ = writeln!(out, "<text x=\"{MARGIN}\" y=\"{HEAD}\">nothing of this was sampled</text>");
    }
    let mut y = HEAD + rows + ROW;
    for note in &profile.notes {
        _ = writeln!(out, "<text x=\"{MARGIN}\" y=\"{y}\" fill=\"#a00\">{}</text>", escaped(note));
        y += ROW;
    }
    out.push_str("</svg>\n");
    out
}

fn draw(out: &mut String, rectangle: &Rectangle<'_>, (floor, all, unit): (f64, i64, &str)) {
    let Rectangle { name, value, depth, left, width } = rectangle;
    let top = floor - f64::from(depth + 1) * ROW;
    let percent = share(*value, all);
    let amount = amount(*value, unit);
    _ = write!(
        out,
        "<g><title>{} ({amount}, {percent:.2}%)</title>\
         <rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{:.1}\" fill=\"{}\" rx=\"1\"/>",
        escaped(name),
        ROW - 1.0,
        colour(name)
    );
    let shown = clipped(name, *width);
    if !shown.is_empty() {
        _ = write!(out, "<text x=\"{:.1}\" y=\"{:.1}\">{}</text>", left + 2.0, top + 12.0, escaped(&shown));
    }
    out.push_str("</g>\n");
}

#[expect(clippy::cast_precision_loss, reason = "shares are drawn, not counted")]
fn share(value: i64, all: i64) -> f64 {
    value as f64 * 100.0 / all.max(1) as f64
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn amount(value: i64, unit: &str) -> String {
    match unit {
        "nanoseconds" => format!("{:.2} s", value as f64 / 1e9),
        "bytes" => format!("{:.2} MiB", value as f64 / f64::from(1 << 20)),
        _ => format!("{value} {unit}"),
    }
}

/// As much of a name as fits, or nothing.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a width of at most 1200")]
fn clipped(name: &str, width: f64) -> String {
    let room = ((width - 4.0) / CHARACTER).max(0.0) as usize;
    match name.chars().count() {
        count if count <= room => name.to_owned(),
        _ if room < 3 => String::new(),
        _ => name.chars().take(room - 2).chain("..".chars()).collect(),
    }
}

/// Always the same for a name: warm for code, grey for what has no name.
fn colour(name: &str) -> String {
    if name.starts_with('[') {
        return "#c9c9c9".to_owned();
    }
    let hash = name.bytes().fold(0_u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(u32::from(byte)));
    format!("hsl({},{}%,{}%)", 15 + hash % 40, 70 + hash / 64 % 20, 62 + hash / 4_096 % 12)
}

/// Text of an element. What XML cannot hold is left out.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            character if character.is_control() || matches!(character, '\u{fffe}' | '\u{ffff}') => {}
            character => out.push(character),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::tests::example;

    #[test]
    fn frames_are_as_wide_as_their_share() {
        let profile = example();
        let root = Node::of(&profile);
        let rectangles = lay_out(&root);
        let width = |name, depth| {
            let found = rectangles.iter().find(|one| one.name == name && one.depth == depth);
            found.map(|one| one.width.round())
        };
        assert_eq!(width("all", 0), Some(1_180.0));
        assert_eq!(width("worker-0", 1), Some(590.0));
        assert_eq!(width("main", 2), Some(590.0));
        assert_eq!(width("a::<&str>", 3), Some(443.0));
        assert_eq!(width("b", 3), Some(148.0));
        assert_eq!(rectangles.len(), 7);
        // What is beyond the bound is what is furthest from the root.
        assert!(rectangles.is_sorted_by_key(|one| one.depth));
    }

    #[test]
    fn what_is_too_narrow_is_not_drawn() {
        let mut profile = example();
        profile.samples[1].values = vec![0, 1];
        assert!(lay_out(&Node::of(&profile)).iter().all(|rectangle| rectangle.name != "b"));
        profile.samples.clear();
        assert!(svg(&profile, "idle").contains(">nothing of this was sampled"));
    }

    #[test]
    fn names_are_text_and_no_markup() {
        let mut profile = example();
        profile.samples[0].thread = Some("</svg><script>\u{1b}".into());
        let picture = svg(&profile, "a & b");
        assert!(picture.contains("&lt;/svg&gt;&lt;script&gt; (0.03 s, 37.50%)"), "{picture}");
        assert!(picture.contains("a &amp; b") && !picture.contains("<script"));
        assert!(picture.contains("7 samples were lost"));
    }

    #[test]
    fn long_names_are_cut() {
        assert_eq!(clipped("abcdef", 50.0), "abcdef");
        assert_eq!(clipped("abcdefgh", 50.0), "abcd..");
        assert_eq!(clipped("abcdefgh", 10.0), "");
    }
}
