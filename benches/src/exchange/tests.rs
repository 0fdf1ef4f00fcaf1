//! Runs against the stand-in for the broker, in each way that a message can be done.

use super::*;
use crate::fake::{self, Fault};
use crate::talk::Level;
use crate::wire::Wire;

const ALL: [(Level, bool); 5] = [
    (Level::None, true),
    (Level::Accepted, true),
    (Level::Stored, false),
    (Level::Stored, true),
    (Level::Delivered, true),
];

fn plan(level: Level, receivers: bool, window: u16, fault: Fault) -> Plan {
    let dialect = Dialect::Waspmq { level, batch: false };
    Plan {
        dialect,
        port: fake::start(Wire::Binary, fault),
        pid: std::process::id(),
        addresses: (0..3).map(|i| vec![dialect.address(i)]).collect(),
        receivers,
        window,
        refill_at: window / 2,
        payload_bytes: 128,
    }
}

fn interval() -> Interval {
    Interval { warm_up: Duration::from_millis(30), measure: Duration::from_millis(120), bytes_min: 0 }
}

#[test]
fn every_way_to_be_done_is_clean_and_timed() {
    for (level, receivers) in ALL {
        for window in [1, 64] {
            let mut ends = 0;
            let outcome = run(&plan(level, receivers, window, Fault::None), interval(), || {
                ends += 1;
                Ok(())
            })
            .unwrap();
            assert!(outcome.sample.is_clean(), "{level:?} {receivers} {window}: {outcome:?}");
            let latency = outcome.latency();
            assert!(
                latency.samples > 0 && latency.p50_us > 0.0,
                "{level:?} {receivers} {window}: {latency:?}"
            );
            assert_eq!(ends, 2);
        }
    }
}

#[test]
fn more_than_the_window_is_never_outstanding() {
    for (level, receivers) in ALL {
        let plan = plan(level, receivers, 8, Fault::None);
        let mut exchange = Exchange::set_up(&plan, u64::MAX).unwrap();
        for _ in 0..200 {
            exchange.publish().unwrap();
            for flow in &exchange.flows {
                assert!(plan.outstanding(flow) <= 8, "{level:?} {receivers}: {flow:?}");
            }
            exchange.turn().unwrap();
        }
        assert!(exchange.done > 100, "{level:?} {receivers}: {}", exchange.done);
    }
}

#[test]
fn a_fill_publishes_its_count_to_the_addresses_in_turn() {
    let mut plan = plan(Level::Stored, false, 4, Fault::None);
    plan.addresses = (0..2).map(|i| (0..3).map(|k| format!("user/f{i}{k}")).collect()).collect();
    let filled = fill(&plan, 101).unwrap();
    for counts in &filled.counts {
        assert_eq!(counts.iter().sum::<u64>(), 101);
        assert!(counts.iter().all(|&count| count > 20), "{counts:?}");
    }
}

#[test]
fn a_fill_publishes_again_what_found_no_room() {
    let mut plan = plan(Level::Stored, false, 8, Fault::Overloaded);
    plan.addresses = (0..2).map(|i| (0..3).map(|k| format!("user/f{i}{k}")).collect()).collect();
    let filled = fill(&plan, 100).unwrap();
    for (i, counts) in filled.counts.iter().enumerate() {
        assert_eq!(counts.iter().sum::<u64>(), 100);
        for (k, &count) in counts.iter().enumerate() {
            let replay = crate::inbox::replay(plan.port, &format!("f{i}{k}"), count, false).unwrap();
            assert_eq!(replay.received, count, "each message is in the inbox it was for");
        }
    }
    let error = format!("{:#}", run(&plan, interval(), || Ok(())).unwrap_err());
    assert!(error.contains("error 1503 overloaded: full"), "a measured run is none any more: {error}");
}

#[test]
fn a_run_goes_on_until_enough_bytes_are_acknowledged() {
    let interval = Interval { measure: Duration::from_millis(1), bytes_min: 100_000, ..interval() };
    let outcome = run(&plan(Level::Stored, false, 64, Fault::None), interval, || Ok(())).unwrap();
    assert!(outcome.sample.deliveries >= 100_000 / 128, "{outcome:?}");
}

#[test]
fn a_level_that_is_not_supported_ends_the_run_in_words() {
    let plan = plan(Level::Stored, false, 4, Fault::NotSupported);
    let error = format!("{:#}", run(&plan, interval(), || Ok(())).unwrap_err());
    assert!(error.contains("error 1501 not_supported: level"), "{error}");
}

#[test]
fn a_repeated_message_is_counted() {
    let repeated = run(&plan(Level::Accepted, true, 8, Fault::Repeats), interval(), || Ok(())).unwrap();
    assert!(repeated.sample.faults.duplicated > 0 && !repeated.sample.is_clean(), "{repeated:?}");
}

#[test]
fn a_receipt_that_never_comes_is_counted() {
    let plan = plan(Level::Stored, false, 200, Fault::Forgets);
    let mut exchange = Exchange::set_up(&plan, 150).unwrap();
    exchange.pump(|exchange| exchange.done >= 3 * 149).unwrap();
    assert_eq!(exchange.faults().lost, 3, "one of each publisher");
}
