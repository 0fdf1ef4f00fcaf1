//! The screen while it is taken: it is given back however this ends, by a key, a signal, an error or a panic.

use super::super::api::{Api, Refusal};
use super::poller::{Poller, Update};
use super::sample::Sample;
use super::table::Theme;
use super::view::{Screen, Tab, Wish};
use crate::clock::Clock;
use anyhow::{Context, bail};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// What waits between the threads: more is not asked and not read meanwhile.
const WAITING_MAX: usize = 4;

pub(super) fn run(api: Api, address: &str, interval: Duration, theme: Theme) -> anyhow::Result<()> {
    let clock = Clock::new();
    // A broker that refuses is told of as with any other command; one that is not there may come.
    let first = match Sample::take(&api, clock) {
        Err(error) if error.is::<Refusal>() => return Err(error),
        first => first.ok(),
    };
    let (updates, news) = channel(WAITING_MAX);
    let (choose, chosen) = sync_channel(1);
    let wants_sessions = Arc::new(AtomicBool::new(false));
    let poller =
        Poller { api, clock, interval, updates, chosen, wants_sessions: Arc::clone(&wants_sessions) };
    let screen = Screen::new(address, theme);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // Before the screen is taken, so that no signal leaves it behind.
        let ends = Ends::new().context("cannot listen for signals")?;
        let mut taken = Taken::take()?;
        let (typed, keys) = channel(WAITING_MAX);
        std::thread::Builder::new().name("ask".to_owned()).spawn(move || poller.run(first))?;
        std::thread::Builder::new().name("keys".to_owned()).spawn(move || read_keys(&typed))?;
        let watch = Watch { screen, news, keys, choose, wants_sessions };
        watch.run(&mut taken.0, ends).await
    })
}

/// Whoever reads is left behind when the process ends.
fn read_keys(typed: &Sender<io::Result<Event>>) {
    loop {
        let read = event::read();
        let has_failed = read.is_err();
        if typed.blocking_send(read).is_err() || has_failed {
            return;
        }
    }
}

/// The terminal in raw mode with another screen, until this is dropped. A panic restores it by itself, before its text is
/// printed.
struct Taken(DefaultTerminal);

impl Taken {
    fn take() -> anyhow::Result<Self> {
        ratatui::try_init().map(Self).map_err(|error| {
            ratatui::restore();
            anyhow::Error::from(error).context("cannot use this terminal; `--once` needs none")
        })
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            ratatui::restore();
        }
    }
}

/// SIGTERM, SIGINT, SIGQUIT and SIGHUP: somebody wants this to end, or the terminal is gone.
struct Ends([Signal; 4]);

impl Ends {
    fn new() -> io::Result<Self> {
        let kinds =
            [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::quit(), SignalKind::hangup()];
        let [terminate, interrupt, quit, hangup] = kinds.map(signal);
        Ok(Self([terminate?, interrupt?, quit?, hangup?]))
    }

    async fn next(&mut self) {
        let [terminate, interrupt, quit, hangup] = &mut self.0;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = quit.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

struct Watch {
    screen: Screen,
    news: Receiver<Update>,
    keys: Receiver<io::Result<Event>>,
    choose: SyncSender<()>,
    wants_sessions: Arc<AtomicBool>,
}

impl Watch {
    async fn run(mut self, terminal: &mut DefaultTerminal, mut ends: Ends) -> anyhow::Result<()> {
        loop {
            terminal.draw(|frame| self.screen.draw(frame)).context("cannot write to the terminal")?;
            // All can be dropped and waited for again. Biased: an end is seen at once, and a key before what is new.
            tokio::select! {
                biased;
                () = ends.next() => return Ok(()),
                read = self.keys.recv() => {
                    let Some(read) = read else { bail!("the keyboard is not read any more") };
                    if self.handle(&read.context("cannot read the keyboard")?) == Wish::Quit {
                        return Ok(());
                    }
                }
                news = self.news.recv() => match news {
                    Some(Update::Figures(figures)) => self.screen.picture.show(*figures),
                    Some(Update::Trouble(trouble)) => self.screen.picture.fail(trouble),
                    Some(Update::Sessions(sessions)) => self.screen.picture.list(sessions),
                    None => bail!("the broker is not asked any more"),
                },
            }
        }
    }

    /// A new size is seen when it is drawn.
    fn handle(&mut self, event: &Event) -> Wish {
        let Event::Key(key) = event else { return Wish::Stay };
        let before = self.screen.tab();
        let wish = self.screen.handle_key(*key);
        let tab = self.screen.tab();
        if tab != before {
            self.wants_sessions.store(tab == Tab::Sessions, Ordering::Relaxed);
            // Full: it will look anyway.
            _ = self.choose.try_send(());
        }
        wish
    }
}
