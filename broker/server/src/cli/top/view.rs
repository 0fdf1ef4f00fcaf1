//! What the screen shows, and what keys do to it. Whatever its size: what does not fit is cut, and what is longer than the
//! screen is scrolled.

use super::figures::{ACCEPTED, Figures};
use super::lines;
use super::number::{age, amount};
use super::table::{Theme, wrapped};
use ratatui::Frame;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, RenderDirection, Sparkline};
use serde_json::Value;
use std::collections::VecDeque;

/// Bars of a sparkline: a minute of them at the interval that is the default.
const BARS_MAX: usize = 60;

/// Rows below which the sparklines make room for the figures.
const ROWS_WITH_BARS: u16 = 16;

/// Rows of a screen on which the sparklines are higher.
const ROWS_WITH_HIGH_BARS: u16 = 34;

/// Columns in front of the bars.
const BARS_LABEL: u16 = 18;

const HELP: [&str; 14] = [
    "q, Ctrl-C      quit",
    "p, space       pause: what is shown stays; again to go on",
    "tab, 1 2 3     the next view, or one of them; also left and right",
    "up, down       scroll; also k and j, page up and down, home and end",
    "?              this help; any key ends it",
    "",
    "Rates and quantiles are of the last interval, not of all the time since the start. Behind a > \
     is the highest bound that is told apart.",
    "NOT TAKEN: published, and refused, dropped by a policy, or seen before.",
    "FAIL: calls of a policy that ended in no decision.",
    "DIFF: decisions of a shadow that differ from those of the active version.",
    "new: an active version that is on probation, compared with the one before.",
    "Bars: one for each interval, the newest on the right; a dot where nobody answered.",
    "",
    "docs/METRICS.md tells what each figure counts; for programs there is waspmq top --json.",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tab {
    Overview,
    Policies,
    Sessions,
}

impl Tab {
    const ALL: [Self; 3] = [Self::Overview, Self::Policies, Self::Sessions];

    const fn name(self) -> &'static str {
        match self {
            Self::Overview => "Overview",
            Self::Policies => "Policies",
            Self::Sessions => "Sessions",
        }
    }

    const fn next(self) -> Self {
        match self {
            Self::Overview => Self::Policies,
            Self::Policies => Self::Sessions,
            Self::Sessions => Self::Overview,
        }
    }
}

/// Why there is nothing new.
#[derive(Debug, Clone)]
pub(super) struct Trouble {
    pub(super) said: String,
    /// Since the last figures.
    pub(super) silent_ms: u64,
    pub(super) retry_ms: u64,
}

/// A page of sessions, or why there is none.
pub(super) type Sessions = Result<Value, String>;

/// What is known of the broker.
#[derive(Debug, Clone, Default)]
pub(super) struct Picture {
    figures: Option<Figures>,
    trouble: Option<Trouble>,
    sessions: Option<Sessions>,
    published: VecDeque<Option<u64>>,
    delivered: VecDeque<Option<u64>>,
}

impl Picture {
    pub(super) fn show(&mut self, figures: Figures) {
        let messages = &figures.messages;
        push(&mut self.published, Some(messages.published(None, |outcome| outcome == ACCEPTED)));
        push(&mut self.delivered, Some(messages.delivered(None, |_| true)));
        self.figures = Some(figures);
        self.trouble = None;
    }

    pub(super) fn fail(&mut self, trouble: Trouble) {
        push(&mut self.published, None);
        push(&mut self.delivered, None);
        self.trouble = Some(trouble);
    }

    pub(super) fn list(&mut self, sessions: Sessions) {
        self.sessions = Some(sessions);
    }
}

/// Bars are whole numbers: thousandths, so that a slow broker has some, too.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast saturates at both ends")]
fn push(bars: &mut VecDeque<Option<u64>>, rate: Option<f64>) {
    bars.push_front(rate.map(|rate| (rate * 1_000.0) as u64));
    bars.truncate(BARS_MAX);
}

/// What somebody at the keyboard wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    Quit,
    Stay,
}

#[derive(Debug)]
pub(super) struct Screen {
    pub(super) picture: Picture,
    address: String,
    theme: Theme,
    tab: Tab,
    has_help: bool,
    /// What is shown while it is not to change.
    paused: Option<Picture>,
    scroll: usize,
    /// Rows of the body when it was drawn last, which a page is.
    page: usize,
}

impl Screen {
    pub(super) fn new(address: &str, theme: Theme) -> Self {
        Self {
            picture: Picture::default(),
            address: address.to_owned(),
            theme,
            tab: Tab::Overview,
            has_help: false,
            paused: None,
            scroll: 0,
            page: 1,
        }
    }

    pub(super) const fn tab(&self) -> Tab {
        self.tab
    }

    pub(super) fn handle_key(&mut self, key: KeyEvent) -> Wish {
        if key.kind == KeyEventKind::Release {
            return Wish::Stay;
        }
        let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c') if is_control => return Wish::Quit,
            _ if is_control => {}
            KeyCode::Char('q') => return Wish::Quit,
            _ if self.has_help => self.has_help = false,
            KeyCode::Char('?' | 'h') => self.has_help = true,
            KeyCode::Char('p' | ' ') => {
                self.paused = if self.paused.is_some() { None } else { Some(self.picture.clone()) };
            }
            KeyCode::Tab | KeyCode::Right => self.choose(self.tab.next()),
            KeyCode::BackTab | KeyCode::Left => self.choose(self.tab.next().next()),
            KeyCode::Char('1') => self.choose(Tab::Overview),
            KeyCode::Char('2') => self.choose(Tab::Policies),
            KeyCode::Char('3') => self.choose(Tab::Sessions),
            KeyCode::Up | KeyCode::Char('k') => self.scroll = self.scroll.saturating_sub(1),
            // How far it goes is seen when it is drawn.
            KeyCode::Down | KeyCode::Char('j') => self.scroll = self.scroll.saturating_add(1),
            KeyCode::PageUp => self.scroll = self.scroll.saturating_sub(self.page),
            KeyCode::PageDown => self.scroll = self.scroll.saturating_add(self.page),
            KeyCode::Home => self.scroll = 0,
            KeyCode::End => self.scroll = usize::MAX,
            _ => {}
        }
        Wish::Stay
    }

    const fn choose(&mut self, tab: Tab) {
        self.tab = tab;
        self.scroll = 0;
    }

    pub(super) fn draw(&mut self, frame: &mut Frame<'_>) {
        let area = frame.area();
        let width = usize::from(area.width);
        let header = self.header(width);
        let header_rows = u16::try_from(header.len()).unwrap_or(u16::MAX);
        let bars = match area.height {
            _ if self.has_help => 0,
            ROWS_WITH_HIGH_BARS.. => 6,
            ROWS_WITH_BARS.. => 2,
            _ => 0,
        };
        let rows = [
            Constraint::Length(header_rows),
            Constraint::Length(bars),
            Constraint::Fill(1),
            Constraint::Length(1),
        ];
        let [top, middle, body, bottom] = Layout::vertical(rows).areas(area);
        frame.render_widget(Paragraph::new(header), top);
        self.draw_bars(frame, middle);
        let lines = self.body(width, usize::from(body.height));
        let rows = usize::from(body.height);
        let last = lines.len().saturating_sub(rows);
        (self.page, self.scroll) = (rows.max(1), self.scroll.min(last));
        let seen: Vec<Line<'_>> = lines.into_iter().skip(self.scroll).take(rows).collect();
        frame.render_widget(Paragraph::new(seen), body);
        frame.render_widget(Paragraph::new(self.footer(last)), bottom);
    }

    fn shown(&self) -> &Picture {
        self.paused.as_ref().unwrap_or(&self.picture)
    }

    fn header(&self, width: usize) -> Vec<Line<'static>> {
        let Picture { figures, trouble, .. } = self.shown();
        // What is wrong comes first: what stands below it was so before.
        let mut lines = trouble.as_ref().map_or_else(Vec::new, |trouble| {
            let Trouble { said, silent_ms, retry_ms } = trouble;
            let (silent, retry) = (age(*silent_ms), age(retry_ms.saturating_add(999)));
            let text = format!("NO FIGURES for {silent}, next try in {retry}: {said}");
            wrapped(&text, width, self.theme.bad())
        });
        match figures {
            Some(figures) => lines.extend(lines::header(figures, &self.address, self.theme, width)),
            None if lines.is_empty() => lines.push(Line::raw(format!("asking {} …", self.address))),
            None => {}
        }
        lines
    }

    fn body(&self, width: usize, rows: usize) -> Vec<Line<'static>> {
        if self.has_help {
            return HELP.into_iter().flat_map(|text| wrapped(text, width, Style::new())).collect();
        }
        let Picture { figures, sessions, .. } = self.shown();
        match (self.tab, figures) {
            (Tab::Overview, Some(figures)) => {
                let blocks = lines::overview(figures, self.theme, width);
                let spaced = blocks.join(&[Line::default()][..]);
                if spaced.len() <= rows { spaced } else { blocks.concat() }
            }
            (Tab::Policies, Some(figures)) => lines::policies(figures, self.theme, width),
            (Tab::Sessions, figures) => match sessions {
                Some(Ok(page)) => {
                    let now_unix_ms = figures.as_ref().map_or(0, |figures| figures.unix_ms);
                    lines::sessions(page, now_unix_ms, width)
                }
                Some(Err(said)) => wrapped(said, width, self.theme.bad()),
                None => Vec::new(),
            },
            (_, None) => Vec::new(),
        }
    }

    fn draw_bars(&self, frame: &mut Frame<'_>, area: Rect) {
        let Picture { published, delivered, .. } = self.shown();
        let halves = Layout::vertical([Constraint::Fill(1), Constraint::Fill(1)]).areas::<2>(area);
        for (area, (name, bars)) in halves.into_iter().zip([("publish", published), ("deliver", delivered)]) {
            let sides = [Constraint::Length(BARS_LABEL), Constraint::Fill(1)];
            let [left, right] = Layout::horizontal(sides).areas(area);
            let latest = bars.front().copied().flatten().map_or_else(|| "-".to_owned(), per_s);
            let peak = bars.iter().flatten().max().copied().map(per_s).unwrap_or_default();
            let mut label = vec![Line::styled(format!("{name} {latest}"), Theme::title())];
            label.push(Line::styled(format!("at most {peak}"), Theme::dim()));
            frame.render_widget(Paragraph::new(label), left);
            let line = Sparkline::default()
                .data(bars)
                .direction(RenderDirection::RightToLeft)
                .style(self.theme.bars())
                .absent_value_symbol("·")
                .absent_value_style(Theme::dim());
            // Short ones stand at the left, beside what they are of.
            let width = right.width.min(u16::try_from(BARS_MAX).unwrap_or(u16::MAX));
            frame.render_widget(line, Rect { width, ..right });
        }
    }

    fn footer(&self, last: usize) -> Line<'static> {
        let mut line = Line::default();
        for tab in Tab::ALL {
            let style = if tab == self.tab { Theme::chosen() } else { Theme::dim() };
            line.push_span(Span::styled(format!(" {} ", tab.name()), style));
        }
        if self.paused.is_some() {
            line.push_span(Span::styled(" PAUSED", self.theme.warning()));
        }
        if last > 0 {
            line.push_span(Span::raw(format!(" ↑{} ↓{}", self.scroll, last.saturating_sub(self.scroll))));
        }
        line.push_span(Span::styled("  ? help  q quit", Theme::dim()));
        line
    }
}

/// Of thousandths.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
fn per_s(thousandths: u64) -> String {
    format!("{}/s", amount(thousandths as f64 / 1_000.0))
}
