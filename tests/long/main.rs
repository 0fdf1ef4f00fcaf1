//! Tests that take minutes and want an otherwise quiet machine: `cargo xtask test --long`.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "tests: a surprise ends the test, and tests are clients that have clocks and tasks of their own"
)]

#[path = "../it/binary.rs"]
mod binary;
#[path = "../it/bridge.rs"]
#[expect(dead_code, reason = "shared with the short tests, which use all of it")]
mod bridge;
mod crash;
#[path = "../it/harness.rs"]
#[expect(dead_code, reason = "shared with the short tests, which use all of it")]
mod harness;
#[path = "../it/kills/mod.rs"]
mod kills;
mod swap;

use harness::Broker;
use std::path::Path;
use std::time::Duration;

fn broker_with_stamps() -> Broker {
    let broker = Broker::start();
    let plugins = Path::new(env!("CARGO_BIN_EXE_waspmq")).ancestors().nth(2).unwrap().join("plugins");
    for file in ["stamp-a.wasm", "stamp-b.wasm"] {
        let component = std::fs::read(plugins.join(file)).expect("run `cargo xtask plugins`");
        let answer =
            broker.admin("POST", "/v1/plugins/stamp/revisions", Some(("application/wasm", component)));
        assert_eq!(answer.0, 201, "{}", answer.1);
    }
    broker
}

/// 200 senders to 200 receivers, 100 swaps in 20 s, five runs with swaps and five without in turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_swaps_lose_nothing_and_pause_nobody() {
    let mut ratios = Vec::new();
    for run in 0..5 {
        let broker = broker_with_stamps();
        let load = swap::Load {
            spoken: "waspmq.v1.bin",
            pairs: 200,
            window: 64,
            swaps: 100,
            pause: Duration::from_millis(200),
            with_rules: false,
        };
        let swapped = swap::run(&broker, load).await;
        let calm = swap::run(&broker, swap::Load { swaps: 0, pause: Duration::from_secs(20), ..load }).await;
        println!("run {run}\n  with swaps {swapped:?}\n  without    {calm:?}");
        assert_eq!((swapped.lost, swapped.swaps_seen, calm.lost), (0, 100, 0));
        assert!(swapped.delivered > 0 && swapped.per_second >= 50_000.0, "{swapped:?}");
        for metric in ["slow_consumer", "connection_lost", "no_member"] {
            let dropped = broker.metric(&format!("waspmq_messages_dropped_total{{reason=\"{metric}\"}}"));
            assert_eq!(dropped.unwrap_or(0.0), 0.0, "{metric}");
        }
        #[expect(clippy::cast_precision_loss, reason = "microseconds of a gap")]
        ratios.push(swapped.gap_p999_us as f64 / calm.gap_p999_us as f64);
    }
    ratios.sort_by(f64::total_cmp);
    println!("p99.9 of the gap between arrivals, with swaps / without: {ratios:?}, median {:.2}", ratios[2]);
    assert!(ratios[2] <= 2.0, "{ratios:?}");
}
