//! Lines of text in columns, for a screen of any width and for a file alike.
//!
//! Whatever is put in, a line has no control characters, and a table is no wider than it may be.

use super::super::output;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};

/// How words stand out. Without colours they still do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Theme {
    pub(super) has_colours: bool,
}

impl Theme {
    pub(super) const fn title() -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    /// What is there and is not what one looks for.
    pub(super) const fn dim() -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    pub(super) const fn chosen() -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    pub(super) const fn good(self) -> Style {
        self.coloured(Color::Green)
    }

    pub(super) const fn warning(self) -> Style {
        self.coloured(Color::Yellow).add_modifier(Modifier::BOLD)
    }

    pub(super) const fn bad(self) -> Style {
        self.coloured(Color::Red).add_modifier(Modifier::BOLD)
    }

    pub(super) const fn bars(self) -> Style {
        self.coloured(Color::Cyan)
    }

    const fn coloured(self, colour: Color) -> Style {
        if self.has_colours { Style::new().fg(colour) } else { Style::new() }
    }
}

/// A column of a table. The first one is wider than `width` where its cells are and there is room.
#[derive(Debug, Clone, Copy)]
pub(super) struct Column {
    pub(super) title: &'static str,
    pub(super) width: usize,
    /// Where there is no room, the columns with the highest rank are left out first.
    pub(super) rank: u8,
    pub(super) is_right: bool,
}

impl Column {
    pub(super) const fn left(title: &'static str, width: usize, rank: u8) -> Self {
        Self { title, width, rank, is_right: false }
    }

    pub(super) const fn right(title: &'static str, width: usize, rank: u8) -> Self {
        Self { title, width, rank, is_right: true }
    }
}

/// Rows under a line of titles; each row has a cell for each column.
pub(super) fn table(columns: &[Column], rows: Vec<Vec<Span<'static>>>, width: usize) -> Vec<Line<'static>> {
    let safe = |cell: Span<'static>| Span::styled(output::printable(&cell.content), cell.style);
    let rows: Vec<Vec<_>> = rows.into_iter().map(|row| row.into_iter().map(safe).collect()).collect();
    let mut ranks: Vec<u8> = columns.iter().map(|column| column.rank).collect();
    ranks.sort_unstable();
    let needed = |rank: u8| -> usize { kept(columns, rank).map(|(_, column)| column.width + 1).sum() };
    // A table of the columns that always stay may still be too wide: then its lines are cut where they are shown.
    let rank = ranks.iter().rev().copied().find(|&rank| needed(rank) <= width + 1);
    let rank = rank.or_else(|| ranks.first().copied()).unwrap_or_default();
    let first = columns.first().map_or(0, |column| column.width);
    let longest = rows.iter().filter_map(|row| row.first()).map(Span::width).max().unwrap_or(0);
    let room = (first + width + 1).saturating_sub(needed(rank));
    let first = longest.clamp(first, room.max(first));
    let line = |cells: &dyn Fn(usize) -> Span<'static>| {
        let fitted = kept(columns, rank).enumerate().flat_map(|(place, (index, column))| {
            let width = if index == 0 { first } else { column.width };
            let gap = (place > 0).then(|| Span::raw(" "));
            gap.into_iter().chain([fitted(cells(index), width, column.is_right)])
        });
        Line::from_iter(fitted)
    };
    let titles =
        line(&|index| Span::styled(columns.get(index).map_or("", |column| column.title), Theme::title()));
    let rows = rows.iter().map(|row| line(&|index| row.get(index).cloned().unwrap_or_default()));
    std::iter::once(titles).chain(rows).collect()
}

fn kept(columns: &[Column], rank: u8) -> impl Iterator<Item = (usize, &Column)> {
    columns.iter().enumerate().filter(move |(_, column)| column.rank <= rank)
}

/// A cell as wide as its column.
fn fitted(cell: Span<'static>, width: usize, is_right: bool) -> Span<'static> {
    let text = cut(&cell.content, width);
    let room = " ".repeat(width.saturating_sub(Span::raw(&*text).width()));
    let text = if is_right { room + &text } else { text + &room };
    Span::styled(text, cell.style)
}

/// Text of others on one line, at most so wide; what is cut off is marked.
pub(super) fn cut(text: &str, width: usize) -> String {
    let text = output::printable(text);
    if Span::raw(&*text).width() <= width {
        return text;
    }
    let mut shown = String::new();
    for character in text.chars() {
        shown.push(character);
        if Span::raw(&*shown).width() + 1 > width {
            shown.pop();
            break;
        }
    }
    if width > 0 {
        shown.push('…');
    }
    shown
}

/// Two blocks side by side where both fit, else one below the other.
pub(super) fn beside(
    left: Vec<Line<'static>>,
    right: Vec<Line<'static>>,
    width: usize,
) -> Vec<Line<'static>> {
    const GAP: usize = 4;
    let widest = |lines: &[Line<'_>]| lines.iter().map(Line::width).max().unwrap_or(0);
    let edge = widest(&left) + GAP;
    if edge + widest(&right) > width {
        return left.into_iter().chain(right).collect();
    }
    let height = left.len().max(right.len());
    let (mut left, mut right) = (left.into_iter(), right.into_iter());
    let row = |_| {
        let mut line = left.next().unwrap_or_default();
        let room = edge.saturating_sub(line.width());
        line.push_span(Span::raw(" ".repeat(room)));
        line.extend(right.next().unwrap_or_default());
        line
    };
    (0..height).map(row).collect()
}

/// A sentence on as many lines as it needs, broken between words.
pub(super) fn wrapped(text: &str, width: usize, style: Style) -> Vec<Line<'static>> {
    let mut lines: Vec<String> = Vec::new();
    for word in output::printable(text).split(' ') {
        match lines.last_mut() {
            Some(line) if Span::raw(format!("{line} {word}")).width() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(cut(word, width)),
        }
    }
    lines.into_iter().map(|line| Line::styled(line, style)).collect()
}

/// Lines as text without styles.
pub(super) fn plain(lines: &[Line<'_>]) -> String {
    let text = lines.iter().map(|line| format!("{}\n", line.to_string().trim_end()));
    text.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 3] =
        [Column::left("NAME", 4, 0), Column::right("COUNT", 6, 2), Column::right("P99", 5, 1)];

    fn shown(names: &[&str], width: usize) -> String {
        let row = |name: &&str| vec![Span::raw((*name).to_owned()), Span::raw("12"), Span::raw("1ms")];
        plain(&table(&COLUMNS, names.iter().map(row).collect(), width))
    }

    #[test]
    fn columns_line_up_and_go_when_there_is_no_room() {
        assert_eq!(shown(&["a"], 40), "NAME  COUNT   P99\na        12   1ms\n");
        assert_eq!(shown(&["a"], 17), "NAME  COUNT   P99\na        12   1ms\n");
        assert_eq!(shown(&["a"], 16), "NAME   P99\na      1ms\n");
        assert_eq!(shown(&["a"], 9), "NAME\na\n");
        assert_eq!(shown(&["a"], 0), "NAME\na\n");
        assert_eq!(plain(&table(&[], vec![vec![]], 9)), "\n\n");
    }

    #[test]
    fn the_first_column_takes_what_is_left() {
        assert_eq!(shown(&["longer"], 19), "NAME    COUNT   P99\nlonger     12   1ms\n");
        assert_eq!(shown(&["longer"], 18), "NAME   COUNT   P99\nlong…     12   1ms\n");
        assert_eq!(shown(&["größer"], 19), "NAME    COUNT   P99\ngrößer     12   1ms\n");
        assert_eq!(shown(&["a\x1b[2J"], 40), "NAME        COUNT   P99\na\\u{1b}[2J     12   1ms\n");
    }

    #[test]
    fn names_are_cut_by_what_they_take_on_the_screen() {
        for (text, width, expected) in [
            ("orders", 6, "orders"),
            ("orders", 5, "orde…"),
            ("orders", 1, "…"),
            ("orders", 0, ""),
            ("注文サービス", 12, "注文サービス"),
            ("注文サービス", 6, "注文…"),
            ("注文サービス", 1, "…"),
            ("a\nb\u{202e}c", 20, "a\\nb\\u{202e}c"),
            ("a\nb", 3, "a\\…"),
            ("👩‍👩‍👧👩‍👩‍👧", 3, "👩‍👩‍👧…"),
        ] {
            assert_eq!(cut(text, width), expected, "{text:?} {width}");
            assert!(Span::raw(cut(text, width)).width() <= width, "{text:?} {width}");
        }
    }

    #[test]
    fn blocks_stand_beside_each_other_where_they_fit() {
        let block = |text: &'static str| text.lines().map(Line::from).collect::<Vec<_>>();
        let both = |width| plain(&beside(block("aa\nb"), block("c\nd\ne"), width));
        assert_eq!(both(7), "aa    c\nb     d\n      e\n");
        assert_eq!(both(6), "aa\nb\nc\nd\ne\n");
    }

    #[test]
    fn sentences_are_broken_between_words() {
        let text = |text: &str, width| plain(&wrapped(text, width, Style::new()));
        assert_eq!(text("one two three", 8), "one two\nthree\n");
        assert_eq!(text("one two three", 4), "one\ntwo\nthr…\n");
        assert_eq!(text("one\ntwo", 20), "one\\ntwo\n");
        assert_eq!(text("one", 0), "\n");
    }
}
