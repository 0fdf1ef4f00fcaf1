//! What is on the screen, at sizes that are good and at sizes that are not, and what keys do.

use super::fixture;
use super::policy_figures::Policy;
use super::table::Theme;
use super::view::{Screen, Tab, Trouble, Wish};
use super::{Arguments, text};
use clap::{Args, FromArgMatches};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::style::Color;
use serde_json::{Value, json};

const COLOURS: Theme = Theme { has_colours: true };

fn screen() -> Screen {
    let mut screen = Screen::new("127.0.0.1:9471", COLOURS);
    screen.picture.show(fixture::figures());
    screen
}

fn drawn(screen: &mut Screen, width: u16, height: u16) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| screen.draw(frame)).unwrap();
    terminal.backend().buffer().clone()
}

/// The rows of the screen, without what is empty at their ends.
fn rows(screen: &mut Screen, width: u16, height: u16) -> Vec<String> {
    let buffer = drawn(screen, width, height);
    let row = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
    (0..height).map(row).collect()
}

fn press(screen: &mut Screen, code: KeyCode) -> Wish {
    screen.handle_key(KeyEvent::new(code, KeyModifiers::NONE))
}

#[test]
fn eighty_by_twenty_four_shows_everything() {
    let expected = "\
ready  up 6s  generation 17  127.0.0.1:9471  node n1  waspmq 0.1.0
cpu 50%  memory 120MiB  connections 120  sessions 118  files 40/1.0M  threads 12
publish 12.3k/s                                                              █
deliver 60.0k/s                                                              █
KIND    PUBLISHED/s  NOT TAKEN/s  DELIVERED/s      p50      p99
topic         12.3k          3.0        60.0k    100us    >5.0s
user            1.5          1.0          1.5        -        -
TRANSPORT       OPEN  DELIVERED/s    LATENCY         COUNT/s     p50     p99
quic              20        10.0k    delivery           50.0   100us   >5.0s
sse                0            0    ack                15.0   500us   990us
websocket        100        50.0k    journal commit      5.0   500us   990us

connections     opened 5.0/s, turned away 1.0/s, closed 5.0/s (timeout 3.0, pee…
not taken       4.0/s (rejected 3.0, refused_by_policy 1.0)
dropped         30.0/s (expired 20.0, slow_consumer 10.0)
slow consumers  10.0/s (drop_oldest 10.0)
redelivered     4.0/s
given up        0/s
dead letters    1.0/s (timeout 1.0)
acks            15.0/s, 0.5/s ignored; 7 in flight, 3 recipients offline
queues          outbound 2.0MiB, journal 10B; stored 12.3k messages, 1.0GiB

";
    let rows = rows(&mut screen(), 80, 24);
    let (footer, rows) = rows.split_last().unwrap();
    // The fixture has two kinds and three transports; a broker has four of each, which take the three rows that are empty.
    let shown: Vec<&str> = rows.iter().map(String::as_str).filter(|row| !row.is_empty()).collect();
    let expected: Vec<&str> = expected.lines().filter(|row| !row.is_empty()).collect();
    assert_eq!(shown, expected);
    assert_eq!(footer, " Overview  Policies  Sessions   ? help  q quit");
}

#[test]
fn policies_have_a_row_and_their_candidates_another() {
    let mut screen = screen();
    press(&mut screen, KeyCode::Tab);
    assert_eq!(screen.tab(), Tab::Policies);
    let expected = "\
POLICY           STATE   VERSION        CALL/s FAIL/s    p50    p99 BREAKER DIFF/s
mirror           active  route-mirror@1   50.0    5.0  750ns  2.0us half
  shadow         trial   route-mirror@2           0.5               closed     2.5
pace             new     rules@1f3a9c02      0      0      -      - closed
  canary 10%     trial   rules@00000000                             open
spare            trial   -                   0      0      -      - closed
  shadow         trial   a@1                                        closed
torn             refused torn@3              0      0      -      - -
unknown\\u{1b}[2J         -                   0      0      -      - -";
    let shown = rows(&mut screen, 82, 24);
    assert_eq!(shown[4..13], expected.lines().collect::<Vec<_>>()[..], "{shown:#?}");
    let narrow = rows(&mut screen, 40, 10);
    assert!(narrow.iter().any(|row| row == "mirror           active    50.0    5.0"), "{narrow:#?}");
    let wide = rows(&mut screen, 120, 24);
    assert!(wide.iter().any(|row| row.starts_with("mirror           routing     active")), "{wide:#?}");
    screen.picture.show(super::figures::Figures { policies: Vec::new(), ..fixture::figures() });
    assert!(rows(&mut screen, 80, 24).contains(&"there are no policies".to_owned()));
}

#[test]
fn names_of_others_do_no_harm() {
    let mut figures = fixture::figures();
    let hostile = "\u{1b}]0;x\u{7}\u{202e}\r\n".to_owned() + &"長い".repeat(200);
    let policy = |policy: Policy| Policy { name: hostile.clone(), version: Some(hostile.clone()), ..policy };
    figures.policies = figures.policies.into_iter().map(policy).collect();
    figures.broker.node.clone_from(&hostile);
    figures.broker.phase.clone_from(&hostile);
    figures.broker.not_ready = Some(hostile.clone());
    figures.messages.dropped_per_s.insert(hostile.clone(), 1e300);
    figures.connections.open.insert(hostile.clone(), u64::MAX);
    let plain = text(&figures, &hostile);
    assert!(
        !plain.contains(|character: char| character != '\n' && waspmq_core::is_hidden(character)),
        "{plain}"
    );
    let mut screen = Screen::new(&hostile, COLOURS);
    screen.picture.show(figures);
    screen
        .picture
        .list(Ok(json!({"total": 1, "sessions": [{"id": hostile, "user": hostile, "remote": {}}]})));
    for _ in 0..3 {
        press(&mut screen, KeyCode::Tab);
        for (width, height) in [(40, 10), (80, 24), (131, 40)] {
            let shown = rows(&mut screen, width, height).concat();
            assert!(!shown.contains(waspmq_core::is_hidden), "{shown}");
        }
    }
}

/// Every view, whatever is known, at sizes that no terminal should have.
#[test]
fn no_size_is_too_small_or_too_large() {
    let trouble = || Trouble { said: "nobody is there ".repeat(40), silent_ms: 5_000, retry_ms: 1_500 };
    let page =
        json!({"total": 500, "sessions": [{"user": "alice", "connected_unix_ms": 1_790_000_000_000_u64}]});
    let mut screens = [Screen::new("a:1", COLOURS), screen(), screen(), screen(), screen()];
    screens[2].picture.fail(trouble());
    screens[2].picture.list(Err("no".to_owned()));
    screens[3].picture.list(Ok(page));
    press(&mut screens[3], KeyCode::Char('p'));
    press(&mut screens[4], KeyCode::Char('?'));
    for screen in &mut screens {
        for width in [0, 1, 2, 7, 17, 18, 19, 39, 40, 79, 80, 200, 500] {
            for height in [0, 1, 2, 3, 5, 10, 15, 16, 24, 33, 34, 120] {
                press(screen, KeyCode::End);
                drawn(screen, width, height);
                if !matches!(press(screen, KeyCode::Tab), Wish::Stay) {
                    panic!("tab ended it");
                }
            }
        }
    }
}

#[test]
fn a_small_screen_is_scrolled() {
    let mut screen = screen();
    let top = rows(&mut screen, 40, 10);
    assert!(top[2].starts_with("KIND") && top[9].contains("↑0 ↓"), "{top:#?}");
    press(&mut screen, KeyCode::Down);
    assert!(rows(&mut screen, 40, 10)[2].starts_with("topic"));
    press(&mut screen, KeyCode::End);
    let end = rows(&mut screen, 40, 10);
    assert!(end[8].starts_with("queues") && end[9].contains("↓0"), "{end:#?}");
    press(&mut screen, KeyCode::Up);
    assert!(rows(&mut screen, 40, 10)[8].starts_with("acks"), "it does not go on behind the end");
    press(&mut screen, KeyCode::PageUp);
    press(&mut screen, KeyCode::PageUp);
    press(&mut screen, KeyCode::PageUp);
    assert!(rows(&mut screen, 40, 10)[2].starts_with("KIND"));
    press(&mut screen, KeyCode::End);
    press(&mut screen, KeyCode::Tab);
    assert!(rows(&mut screen, 40, 10)[2].starts_with("POLICY"), "a view begins at its top");
}

#[test]
fn keys_do_what_the_help_says() {
    let mut screen = screen();
    let check = |screen: &mut Screen, code, tab| {
        assert_eq!((press(screen, code), screen.tab()), (Wish::Stay, tab), "{code:?}");
    };
    check(&mut screen, KeyCode::Tab, Tab::Policies);
    check(&mut screen, KeyCode::Right, Tab::Sessions);
    check(&mut screen, KeyCode::Tab, Tab::Overview);
    check(&mut screen, KeyCode::BackTab, Tab::Sessions);
    check(&mut screen, KeyCode::Left, Tab::Policies);
    check(&mut screen, KeyCode::Char('1'), Tab::Overview);
    check(&mut screen, KeyCode::Char('3'), Tab::Sessions);
    check(&mut screen, KeyCode::Char('c'), Tab::Sessions);
    check(&mut screen, KeyCode::F(1), Tab::Sessions);
    let help = |screen: &mut Screen| rows(screen, 80, 24).iter().any(|row| row.starts_with("q, Ctrl-C"));
    check(&mut screen, KeyCode::Char('?'), Tab::Sessions);
    assert!(help(&mut screen));
    check(&mut screen, KeyCode::Char('2'), Tab::Sessions);
    assert!(!help(&mut screen), "any key ends it");
    check(&mut screen, KeyCode::Char('2'), Tab::Policies);
    let mut release = KeyEvent::new(KeyCode::Char('q'), KeyModifiers::NONE);
    release.kind = KeyEventKind::Release;
    assert_eq!(screen.handle_key(release), Wish::Stay);
    assert_eq!(press(&mut screen, KeyCode::Char('q')), Wish::Quit);
    let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(screen.handle_key(interrupt), Wish::Quit);
    press(&mut screen, KeyCode::Char('?'));
    assert_eq!(screen.handle_key(interrupt), Wish::Quit, "also out of the help");
}

/// A line of bars, whatever is in front of them.
fn bars(row: &str) -> String {
    row.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn later() -> super::figures::Figures {
    let mut figures = fixture::figures();
    figures.broker.generation = 18;
    figures
}

#[test]
fn a_pause_keeps_what_is_shown() {
    let mut screen = screen();
    let generation = |screen: &mut Screen, number: u64| {
        let rows = rows(screen, 80, 24);
        assert!(rows[0].contains(&format!("generation {number} ")), "{rows:#?}");
        rows[23].contains("PAUSED")
    };
    press(&mut screen, KeyCode::Char('p'));
    screen.picture.show(later());
    assert!(generation(&mut screen, 17));
    press(&mut screen, KeyCode::Char(' '));
    assert!(!generation(&mut screen, 18));
}

#[test]
fn a_broker_that_is_gone_is_told_of_until_it_is_back() {
    let mut screen = Screen::new("127.0.0.1:9471", COLOURS);
    assert_eq!(rows(&mut screen, 80, 24)[0], "asking 127.0.0.1:9471 …");
    screen.picture.show(fixture::figures());
    let said =
        "cannot reach the admin API at http://127.0.0.1:9471: refused; is the broker running?".to_owned();
    for _ in 0..3 {
        screen.picture.fail(Trouble { said: said.clone(), silent_ms: 65_000, retry_ms: 1_500 });
    }
    let gone = rows(&mut screen, 80, 24);
    assert_eq!(gone[0], "NO FIGURES for 1m5s, next try in 2s: cannot reach the admin API at");
    assert_eq!(gone[1], "http://127.0.0.1:9471: refused; is the broker running?");
    assert!(gone[2].starts_with("ready  up 6s"), "{gone:#?}");
    assert_eq!(bars(&gone[4]), "publish - █···");
    screen.picture.show(later());
    let back = rows(&mut screen, 80, 24);
    assert_eq!(bars(&back[2]), "publish 12.3k/s █···█");
    assert!(!back.concat().contains("NO FIGURES"));
}

#[test]
fn a_broker_that_is_not_ready_says_why() {
    let state = |phase: &str, why: Option<&str>| {
        let mut figures = fixture::figures();
        figures.broker.phase = phase.to_owned();
        (figures.broker.ready, figures.broker.not_ready) = (why.is_none(), why.map(str::to_owned));
        let mut screen = screen();
        screen.picture.show(figures);
        let rows = rows(&mut screen, 80, 24);
        (rows[0].split("  ").next().unwrap().to_owned(), rows[2].clone())
    };
    let why = "policy \"pace\": its breaker is open";
    assert_eq!(state("ready", Some(why)), ("not ready".to_owned(), why.to_owned()));
    let (word, next) = state("draining", Some("the broker is draining"));
    assert!(word == "draining" && next.starts_with("publish"), "{word} {next}");
}

#[test]
fn bars_are_of_the_last_minute() {
    let mut screen = screen();
    for _ in 0..100 {
        screen.picture.show(later());
    }
    let wide = rows(&mut screen, 200, 24);
    assert_eq!(wide[2].matches('█').count(), 60);
    assert_eq!(rows(&mut screen, 40, 24)[2].matches('█').count(), 22, "as many as there is room for");
    assert!(rows(&mut screen, 80, 34)[3].starts_with("at most 12.3k/s"));
    assert!(rows(&mut screen, 80, 15)[2].starts_with("KIND"), "figures go before bars");
}

#[test]
fn without_colours_there_are_none() {
    let colours = |has_colours: bool| {
        let mut screen = Screen::new("a:1", Theme { has_colours });
        screen.picture.show(fixture::figures());
        screen.picture.fail(Trouble { said: "gone".to_owned(), silent_ms: 1, retry_ms: 1 });
        let mut coloured = 0;
        for _ in 0..3 {
            press(&mut screen, KeyCode::Tab);
            let buffer = drawn(&mut screen, 120, 40);
            coloured += buffer
                .content
                .iter()
                .filter(|cell| (cell.fg, cell.bg) != (Color::Reset, Color::Reset))
                .count();
        }
        coloured > 0
    };
    assert!(colours(true));
    assert!(!colours(false));
}

#[test]
fn sessions_are_listed() {
    let mut screen = screen();
    press(&mut screen, KeyCode::Char('3'));
    let session = |user: &str| {
        json!({
            "id": "0000040000000001", "user": user, "device": null, "transport": "websocket+json", "worker": 0,
            "remote": "127.0.0.1:50312", "connected_unix_ms": 1_790_000_001_000_u64
        })
    };
    screen.picture.list(Ok(json!({"total": 12_345, "sessions": [session("alice"), session("bob")]})));
    let shown = rows(&mut screen, 100, 24);
    let first = "alice        -            websocket+json   127.0.0.1:50312            5s 0000040000000001";
    assert_eq!(shown[5], first);
    assert_eq!(shown[7], "the first 2 of 12.3k sessions");
    screen.picture.list(Err("it is overloaded".to_owned()));
    assert_eq!(rows(&mut screen, 80, 24)[4], "it is overloaded");
    screen.picture.list(Ok(Value::Null));
    assert!(rows(&mut screen, 80, 24)[4].starts_with("USER"));
}

#[test]
fn text_has_what_the_screen_has() {
    let text = text(&fixture::figures(), "127.0.0.1:9471");
    for part in [
        "ready  up 6s",
        "workers 2",
        "\n\nKIND ",
        "\n\nTRANSPORT ",
        "\n\nconnections ",
        "\n\nPOLICY ",
        "  canary 10%",
    ] {
        assert!(text.contains(part), "{part:?} in\n{text}");
    }
    assert!(text.lines().all(|line| line.trim_end() == line && line.chars().count() <= 100), "{text}");
}

#[test]
fn intervals_are_numbers_of_seconds() {
    let check = |text: &str, ms: Option<u128>| {
        let command = Arguments::augment_args(clap::Command::new("top"));
        let parsed = command.try_get_matches_from(["top", "--interval", text]).ok();
        let parsed =
            parsed.map(|matches| Arguments::from_arg_matches(&matches).unwrap().interval.as_millis());
        assert_eq!(parsed, ms, "{text}");
    };
    check("1", Some(1_000));
    check("0.1", Some(100));
    check("3600", Some(3_600_000));
    for text in ["0", "0.05", "3601", "NaN", "inf", "1s", "-1", ""] {
        check(text, None);
    }
}
