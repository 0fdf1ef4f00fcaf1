//! `bench`: what the broker costs, as a ratio against a bare epoll relay measured in the same minutes.
//!
//! A scenario (`fanout`, `direct`, `idle`) starts a fresh server process per repetition, relay and broker in
//! turn, drives it from one thread over loopback WebSocket connections, and reads the server's CPU time from
//! `/proc`. Raw samples go to JSON lines, medians to standard output. Exit code 1 means that a message was lost
//! or repeated, a connection was closed, or a server complained: such a sample says nothing about cost.
//!
//! Not here: micro-benchmarks of single stages, TLS, QUIC, real networks.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "results and progress are what this tool prints"
)]
#![expect(
    clippy::disallowed_methods,
    reason = "measuring time is the purpose; the broker's clock is not involved"
)]

mod conn;
mod direct;
mod fanout;
mod flow;
mod idle;
mod latency;
mod link;
mod load;
mod options;
mod plan;
mod poll;
mod process;
mod relay;
mod report;
mod sample;
mod server;
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
    /// Many pairs, user to user: throughput, server CPU per message, latency
    Direct(direct::Arguments),
    /// Many connections that say nothing: memory, CPU per accept, idle CPU
    Idle(idle::Arguments),
    /// The reference: a coalescing epoll relay on one thread
    Relay(relay::Arguments),
    /// Runs a program that ends when this one's parent does
    #[command(hide = true)]
    Guard(server::GuardArguments),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().scenario {
        Scenario::Fanout(arguments) => fanout::run(&arguments),
        Scenario::Direct(arguments) => direct::run(&arguments),
        Scenario::Idle(arguments) => idle::run(&arguments),
        Scenario::Relay(arguments) => relay::run(&arguments).map(|()| true),
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
