//! Small frames that inflate to much: what they cost is bounded by the limit of a message. Alone in its process,
//! whose peak of memory it looks at.

mod support;

use support::{FIN, deflated, frame};
use waspmq_transport::websocket::{Decoder, Event, Inflater, Limits, Violation};

const MIB: usize = 1024 * 1024;

/// The most memory that the process has had, where the system tells.
fn peak_bytes() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse::<usize>().ok().map(|kib| kib * 1024)
}

#[test]
fn a_bomb_costs_no_more_than_the_longest_message() {
    // A GiB of zeros in one MiB: a thousand times the same whole blocks, each of which has one MiB.
    let blocks = [&deflated(&vec![0; MIB])[..], &[0x00, 0x00, 0xff, 0xff]].concat();
    assert!(blocks.len() < 1_100, "{}", blocks.len());
    let mut bomb = blocks.repeat(MIB / blocks.len());
    bomb.truncate(bomb.len() - 4);
    assert!(bomb.len() <= MIB);
    let short = frame(FIN | 0x42, &deflated(&vec![0; MIB]));

    let before = peak_bytes();
    let mut inflater = Inflater::default();
    let mut bytes = frame(FIN | 0x42, &bomb);
    for _ in 0..20 {
        let result = Decoder::new().decode(&mut bytes, Some(&mut inflater), &Limits::SESSION);
        assert_eq!(result, Err(Violation::MessageTooLong));
        assert!(inflater.held_bytes() <= MIB + 1, "{}", inflater.held_bytes());
        bytes = frame(FIN | 0x42, &bomb);
    }
    // A thousand messages that are just allowed.
    let mut decoder = Decoder::new();
    for _ in 0..1_000 {
        let mut bytes = short.clone();
        let decoded = decoder.decode(&mut bytes, Some(&mut inflater), &Limits::SESSION).unwrap();
        let Event::Message { data, .. } = decoded.event else { panic!("{decoded:?}") };
        assert_eq!(data.len(), MIB);
    }
    assert!(inflater.held_bytes() <= MIB + 1);
    if let (Some(before), Some(after)) = (before, peak_bytes()) {
        let grown = after - before;
        // The output, what it was before it grew last, and two copies of the bomb.
        assert!(grown <= 6 * MIB, "{grown} bytes");
    }
}
