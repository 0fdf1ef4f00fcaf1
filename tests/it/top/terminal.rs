//! A terminal for programs under test: a real one as far as they can see, whose screen a test reads.

use crate::harness::PATIENCE;
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Instant;

pub(crate) struct Terminal {
    /// Where somebody types and looks.
    outer: File,
    /// What the program has.
    inner: File,
    said: Arc<Mutex<Vec<u8>>>,
    rows: usize,
    columns: usize,
    /// Where in `said` the screen got this size: what was drawn before is not on it any more.
    since: usize,
    child: Option<Pid>,
}

impl Terminal {
    pub(crate) fn open(rows: u16, columns: u16) -> Self {
        let outer = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&outer).unwrap();
        unlockpt(&outer).unwrap();
        let name = ptsname(&outer, Vec::new()).unwrap();
        let inner = rustix::fs::open(&name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
        let said = Arc::new(Mutex::new(Vec::new()));
        let (mut reading, hears) = (File::from(outer.try_clone().unwrap()), Arc::clone(&said));
        std::thread::spawn(move || {
            let mut buffer = [0; 4_096];
            while let Ok(count @ 1..) = reading.read(&mut buffer) {
                hears.lock().unwrap().extend_from_slice(&buffer[..count]);
            }
        });
        let (outer, inner) = (File::from(outer), File::from(inner));
        let mut terminal = Self { outer, inner, said, rows: 0, columns: 0, since: 0, child: None };
        terminal.resize(rows, columns);
        terminal
    }

    pub(crate) fn run(&mut self, mut command: Command) -> Child {
        let end = || Stdio::from(self.inner.try_clone().unwrap());
        let child = command.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
        self.child = Some(Pid::from_child(&child));
        child
    }

    /// The program is told, as a shell's foreground program is.
    pub(crate) fn resize(&mut self, rows: u16, columns: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        self.since = self.said.lock().unwrap().len();
        tcsetwinsize(&self.inner, size).unwrap();
        (self.rows, self.columns) = (rows.into(), columns.into());
        if let Some(child) = self.child {
            kill_process(child, Signal::WINCH).unwrap();
        }
    }

    pub(crate) fn type_in(&mut self, keys: &str) {
        self.outer.write_all(keys.as_bytes()).unwrap();
    }

    pub(crate) fn signal(&self, child: &Child, name: &str) {
        let signal = match name {
            "TERM" => Signal::TERM,
            "HUP" => Signal::HUP,
            "INT" => Signal::INT,
            "QUIT" => Signal::QUIT,
            other => panic!("{other}"),
        };
        kill_process(Pid::from_child(child), signal).unwrap();
    }

    /// The exit code, when all the program wrote is here.
    pub(crate) fn end(&mut self, mut child: Child) -> Option<i32> {
        let started = Instant::now();
        let code = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status.code();
            }
            if started.elapsed() > PATIENCE {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("it does not end:\n{}", self.screen().join("\n"));
            }
            std::thread::yield_now();
        };
        self.child = None;
        // What is written here stands behind all that the program wrote.
        self.inner.write_all(END.as_bytes()).unwrap();
        while !self.said().ends_with(END) {
            assert!(started.elapsed() < PATIENCE, "the terminal is stuck");
            std::thread::yield_now();
        }
        code
    }

    pub(crate) fn said(&self) -> String {
        String::from_utf8_lossy(&self.said.lock().unwrap()).into_owned()
    }

    /// Whether keys come one by one, without an echo.
    pub(crate) fn is_raw(&self) -> bool {
        let modes = tcgetattr(&self.inner).unwrap().local_modes;
        !modes.intersects(LocalModes::ICANON | LocalModes::ECHO)
    }

    /// Waits until what is on the screen is as expected.
    #[track_caller]
    pub(crate) fn shows(&self, what: &str, is_there: impl Fn(&[String]) -> bool) {
        let started = Instant::now();
        loop {
            let rows = self.screen();
            if is_there(&rows) {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "{what} did not come:\n{}", rows.join("\n"));
            std::thread::yield_now();
        }
    }

    /// The rows of the screen, without what is empty at their ends.
    fn screen(&self) -> Vec<String> {
        let said = self.said.lock().unwrap();
        let text = String::from_utf8_lossy(&said[self.since..]).into_owned();
        drop(said);
        let mut cells = vec![vec![' '; self.columns]; self.rows];
        let (mut row, mut column) = (0, 0);
        let mut rest = text.as_str();
        while let Some(character) = rest.chars().next() {
            rest = &rest[character.len_utf8()..];
            if character == '\x1b' && rest.starts_with('[') {
                let end = rest.find(|character: char| character.is_ascii_alphabetic()).unwrap_or(rest.len());
                let (sequence, behind) = rest.split_at(end);
                match behind.chars().next() {
                    Some('H') => {
                        let mut numbers = sequence[1..].split(';').map(|number| number.parse().unwrap_or(1));
                        row = numbers.next().unwrap_or(1) - 1;
                        column = numbers.next().unwrap_or(1) - 1;
                    }
                    Some('J') => cells.iter_mut().for_each(|row| row.fill(' ')),
                    _ => {}
                }
                rest = behind.get(1..).unwrap_or_default();
            } else if let Some(cell) = cells.get_mut(row).and_then(|row| row.get_mut(column)) {
                *cell = character;
                column += 1;
            }
        }
        cells.into_iter().map(|row| row.into_iter().collect::<String>().trim_end().to_owned()).collect()
    }
}

/// What no program says.
const END: &str = "\u{1}end\u{1}";
