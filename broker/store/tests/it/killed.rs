//! A process that is killed while it writes, again and again.

use crate::journal::{options, start, ticket};
use crate::log::log;
use crate::support::*;
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use waspmq_store::*;

const STORE: &str = "WASPMQ_TEST_KILLED_STORE";
const USERS: usize = 4;

fn user(n: usize) -> String {
    format!("user/u{n}")
}

/// Not a test by itself: the process that the next one kills. Tells on its output what it was answered.
#[test]
fn a_process_that_writes() {
    let Some(path) = std::env::var_os(STORE) else { return };
    let path = Path::new(&path);
    let store: Arc<dyn Store> = Arc::new(open(path));
    let short = Duration::from_millis(7);
    let options = JournalOptions {
        log: Some(log(path, 32 * 1024)),
        sync_every: short,
        maintain_every: short,
        ..options()
    };
    let next = |n| store.last(&address(&user(n))).unwrap().map_or(0, |position| position.offset + 1);
    let mut next: Vec<u64> = (0..USERS).map(next).collect();
    let (journal, _threads, answers) = start(store.clone(), options);
    let (mut out, mut waiting, mut turn) = (std::io::stdout().lock(), VecDeque::new(), 0);
    loop {
        while waiting.len() < 32 {
            let n = turn % USERS;
            let offset = &mut next[n];
            let write = messages(batch(&user(n), at(1, *offset), 1, *offset), LONG);
            journal.push(write, ticket(0, turn as u64)).unwrap();
            waiting.push_back((turn, n, *offset));
            (*offset, turn) = (*offset + 1, turn + 1);
        }
        let (_, tokens, result) = answers.recv().unwrap();
        result.unwrap();
        for token in tokens {
            let (turn, n, offset) = waiting.pop_front().unwrap();
            assert_eq!(token, turn as u64, "in the order of pushes");
            writeln!(out, "ok {n} {offset}").unwrap();
        }
        out.flush().unwrap();
    }
}

#[test]
fn what_was_answered_survives_kills() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    drop(open(&path));
    let (mut answered, mut replayed) = ([0; USERS], 0);
    for round in 0..8_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "killed::a_process_that_writes", "--nocapture"])
            .env(STORE, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut take = |line: std::io::Result<String>| {
            // The line that is being written when the process ends may lack its end.
            let Ok(line) = line else { return false };
            let Some((n, offset)) = line.strip_prefix("ok ").and_then(|line| line.split_once(' ')) else {
                return false;
            };
            let (Ok(n), Ok(offset)) = (n.parse::<usize>(), offset.parse::<u64>()) else { return false };
            answered[n] = answered[n].max(offset + 1);
            true
        };
        let mut told = 0;
        while told < 200 + round * 331 {
            told += u64::from(take(lines.next().expect("the process goes on")));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        for line in lines {
            take(line);
        }
        let (store, recovered) = reopen(&path);
        let mut stored = 0;
        for (n, answered) in answered.iter().enumerate() {
            let found = offsets(&store, &query(&user(n)));
            assert!(found.len() as u64 >= *answered, "{answered} were answered, {} found", found.len());
            assert!(found.iter().copied().eq(0..found.len() as u64), "in order and once");
            stored += found.len() as u64 + 1;
            // Behind a crash an address is counted when it is written to.
            put(&store, batch(&user(n), at(1, found.len() as u64), 1, 0));
        }
        assert_eq!(store.usage().messages, stored, "round {round}: {recovered:?}");
        replayed += recovered.log_writes;
    }
    assert!(replayed > 0, "the store followed so closely that nothing was shown");
}
