//! `bench`: what the broker costs, as a ratio against references measured in the same minutes.
//!
//! A scenario (`fanout`, `delivered` and so on) starts a fresh server process per repetition, reference and broker in
//! turn, drives it from one thread over loopback connections (WebSocket or QUIC), and reads the server's CPU time from
//! `/proc`. Raw samples go to JSON lines, medians to standard output. Exit code 1 means that a message was lost
//! or repeated, a connection was closed, or a server complained: such a sample says nothing about cost.
//!
//! Not here: micro-benchmarks of single stages, real networks.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "results and progress are what this tool prints"
)]
#![expect(
    clippy::disallowed_methods,
    reason = "measuring time is the purpose; the broker's clock is not involved"
)]

mod admin;
mod commit;
mod compression;
mod conn;
mod delivered;
mod direct;
mod documents;
mod exchange;
mod fanout;
mod flow;
mod foreign;
mod fsync;
mod fsync_relay;
mod idle;
mod inbox;
mod latency;
mod link;
mod load;
mod options;
mod plan;
mod policy;
mod poll;
mod process;
mod quic;
mod recovery;
mod relay;
mod report;
mod sample;
mod scrape;
mod server;
mod stalled;
mod stored;
mod stream;
mod talk;
mod tls;
mod watch;
mod wire;
mod ws;

#[cfg(test)]
mod fake;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Measures the broker against a bare epoll relay.
#[derive(Debug, Parser)]
#[command(name = "bench", version)]
struct Arguments {
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Debug, Subcommand)]
enum Scenario {
    /// One publisher, many subscribers: server CPU per delivery
    Fanout(fanout::Arguments),
    /// Many subscribers that take compressed messages: server CPU and bytes per delivery, codec by codec
    Compression(compression::Arguments),
    /// Many pairs, user to user: throughput, server CPU per message, latency
    Direct(direct::Arguments),
    /// Many connections that say nothing: memory, CPU per accept, idle CPU
    Idle(idle::Arguments),
    /// The reference for `stored`: records handed to one thread that appends and syncs them in batches
    Fsync(fsync::Arguments),
    /// The reference for `stored` with a network: relay threads that hand publishes to one thread that commits
    FsyncRelay(fsync_relay::Arguments),
    /// Publishers that wait until their messages are on disk: messages per second, latency, against the references
    Stored(stored::Arguments),
    /// Many pairs, with receipts once the recipient acknowledged: server CPU per message, latency
    Delivered(delivered::Arguments),
    /// Readers that stopped reading, beside others: latency of the others, memory
    Stalled(stalled::Arguments),
    /// A user who was away: time to the first and to all of the stored messages
    Inbox(inbox::Arguments),
    /// A broker killed with a full store: time until it is ready again
    Recovery(recovery::Arguments),
    /// Policies: what calls cost and instances take, and what traffic notices, against their bars
    Policy(policy::Arguments),
    /// The reference: a coalescing epoll relay on one thread
    Relay(relay::Arguments),
    /// Many pairs, user to user over QUIC: server CPU per message against a bare relay of quinn
    Quic(quic::Arguments),
    /// Many QUIC sessions that say nothing: memory of each against a bare relay of quinn
    QuicIdle(quic::IdleArguments),
    /// Streams of quinn, passed on, with one socket for all threads and with one for each
    QuicSockets(quic::SocketsArguments),
    /// The reference of `quic` and `quic-idle`: streams of quinn, passed on
    QuicRelay(quic::RelayArguments),
    /// Runs a program that ends when this one's parent does
    #[command(hide = true)]
    Guard(server::GuardArguments),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().scenario {
        Scenario::Fanout(arguments) => fanout::run(&arguments),
        Scenario::Compression(arguments) => compression::run(&arguments),
        Scenario::Direct(arguments) => direct::run(&arguments),
        Scenario::Idle(arguments) => idle::run(&arguments),
        Scenario::Fsync(arguments) => fsync::run(&arguments),
        Scenario::FsyncRelay(arguments) => fsync_relay::run(&arguments).map(|()| true),
        Scenario::Stored(arguments) => stored::run(&arguments),
        Scenario::Delivered(arguments) => delivered::run(&arguments),
        Scenario::Stalled(arguments) => stalled::run(&arguments),
        Scenario::Inbox(arguments) => inbox::run(&arguments),
        Scenario::Recovery(arguments) => recovery::run(&arguments),
        Scenario::Policy(arguments) => policy::run(&arguments),
        Scenario::Relay(arguments) => relay::run(&arguments).map(|()| true),
        Scenario::Quic(arguments) => quic::run(&arguments),
        Scenario::QuicIdle(arguments) => quic::run_idle(&arguments),
        Scenario::QuicSockets(arguments) => quic::run_sockets(&arguments),
        Scenario::QuicRelay(arguments) => quic::run_relay(&arguments).map(|()| true),
        Scenario::Guard(arguments) => server::guard(&arguments).map(|()| true),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
