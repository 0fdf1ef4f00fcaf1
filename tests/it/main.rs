//! Black-box tests: the real binary, started as a process, and real clients over loopback.
//!
//! One test binary with a module per feature. Every broker gets its own data directory and free ports, so
//! tests run side by side. Brokers have two workers: what works only inside one worker fails here.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::print_stderr,
    clippy::large_futures,
    reason = "tests: a surprise ends the test, and tests are clients that have clocks and tasks of their own, and sockets \
              with room for TLS in their futures"
)]

/// Tests of functions that take a way to be connected, one for each.
macro_rules! over_every_transport {
    ($($test:ident),+ $(,)?) => {$(
        mod $test {
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn json() {
                super::$test("waspmq.v1.json").await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn binary() {
                super::$test("waspmq.v1.bin").await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn quic() {
                super::$test("quic").await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn webtransport() {
                super::$test("webtransport").await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sse() {
                super::$test("sse").await;
            }
        }
    )+};
}

mod access;
mod asking;
mod bad_input;
mod bench;
mod binary;
mod bridge;
mod capture;
mod compression;
mod compression_policies;
mod console;
mod crash;
mod deflate;
mod dictionaries;
mod disk_full;
mod explain;
mod harness;
mod hooks;
mod inbox;
mod kills;
mod kit;
mod ledger;
mod levels;
mod lifecycle;
mod messages;
mod policies;
mod policy_disk;
mod policy_restart;
mod presence;
mod profile;
mod queues;
mod queues_kept;
mod quic;
mod resume;
mod rollout;
mod rules;
mod shipped;
mod slow;
mod sse;
mod tail;
mod timing;
mod tls;
mod tokens;
mod top;
mod worker;
