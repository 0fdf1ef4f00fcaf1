//! `waspmq bench`: a load generator for the user's own broker.
//!
//! What is pure, when messages are due (`schedule`), whether all came (`sequence`, `spread`), what they took (`latency`) and what is said of it
//! (`report`), knows no clock and no client. `flow` runs what the scenarios with messages have in common, which is all but their shape (`plan`);
//! `connections` is the one without. Nothing here decides what is fast: the exit code is about messages that were lost, not about time.

mod clients;
mod connections;
mod figures;
mod files;
mod flow;
mod latency;
mod limits;
mod options;
mod outcome;
mod plan;
mod progress;
mod publisher;
mod receiver;
mod report;
mod run;
mod schedule;
mod sequence;
mod spread;
mod stamp;
mod window;

use super::failure::Failure;
use clap::{Args, Subcommand};
use options::parse_time_or_none;
use options::{Admin, Common, Drive, Load, Pace, parse_clients, parse_in_flight, parse_level, parse_rate};
use plan::Plan;
use std::time::Duration;
use waspmq_client::Level;

/// Put load on a broker, and measure what becomes of it
#[derive(Debug, Args)]
#[command(after_help = "\
All clients run in this process, so times need no second clock. Every message is numbered: what is
lost, repeated, out of order or refused is counted, shown, and makes the exit code 1. Messages go
to topic/bench.RUN.N with a RUN of its own, so runs meet neither each other nor anybody else.
Ctrl-C ends a run early and prints what was measured. Run it on another machine than the broker's
where you can: on the same one they share its cores. docs/BENCH.md says how to read the results.

Examples:
  waspmq bench latency --rate 1000 --duration 30s
  waspmq bench throughput --pairs 8 --in-flight 128 --size 1024
  waspmq bench fanout --subscribers 500 --url quic://broker.example:9470
  waspmq bench acked --ack stored --json
  waspmq bench connections --clients 5000 --rate 500 --hold 1m
  waspmq bench queue --members 4")]
pub(super) struct Arguments {
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Debug, Subcommand)]
enum Scenario {
    Latency(Latency),
    Throughput(Throughput),
    Fanout(Fanout),
    Acked(Acked),
    Queue(Queue),
    Connections(Connections),
}

/// How long messages take at a fixed rate, each from the time it was due
#[derive(Debug, Args)]
#[command(after_help = "\
A message that is sent late because the broker or this program stalled counts from when it should
have been sent, so a stall shows in every message that it held up (no coordinated omission). What
of it was this program's own delay is told as `send delay`.

Examples:
  waspmq bench latency
  waspmq bench latency --rate 20000 --size 1024 --subscribers 10 --duration 1m")]
struct Latency {
    /// Messages a second
    #[arg(long, value_name = "N", default_value = "1000", value_parser = parse_rate)]
    rate: f64,
    /// Receivers, each of which receives every message
    #[arg(long, value_name = "N", default_value = "1", value_parser = parse_clients)]
    subscribers: usize,
    #[command(flatten)]
    load: Load,
    #[command(flatten)]
    common: Common,
}

/// How many messages go through when each publisher sends as fast as its receiver takes
#[derive(Debug, Args)]
#[command(after_help = "\
A publisher sends on as its receiver receives, so nothing piles up in the broker; latency is from
the sending, in a full window, and grows with --in-flight.

Examples:
  waspmq bench throughput --pairs 8
  waspmq bench throughput --size 65536 --in-flight 16 --url quic://127.0.0.1:9470 --transport wt")]
struct Throughput {
    /// Publishers, each with a topic and a receiver of its own
    #[arg(long, value_name = "N", default_value = "1", value_parser = parse_clients)]
    pairs: usize,
    /// Messages of a publisher that its receiver does not have yet
    #[arg(long, value_name = "N", default_value = "64", value_parser = parse_in_flight)]
    in_flight: usize,
    #[command(flatten)]
    load: Load,
    #[command(flatten)]
    common: Common,
}

/// How many deliveries a topic with many subscribers gets, and how far the first and the last are apart
#[derive(Debug, Args)]
#[command(after_help = "\
Without --rate, the publisher sends on as its subscribers receive on average. The spread of a
message is from the first subscriber that has it to the last.

Examples:
  waspmq bench fanout --subscribers 1000
  waspmq bench fanout --subscribers 1000 --rate 10")]
struct Fanout {
    /// Receivers, each of which receives every message
    #[arg(long, value_name = "N", default_value = "100", value_parser = parse_clients)]
    subscribers: usize,
    #[command(flatten)]
    drive: Drive,
    #[command(flatten)]
    load: Load,
    #[command(flatten)]
    common: Common,
}

/// How long receipts take: until a message is accepted, on stable storage, or acknowledged by all receivers
#[derive(Debug, Args)]
#[command(after_help = "\
Receivers acknowledge what they have. Without --rate, a publisher sends on as receipts come.

Examples:
  waspmq bench acked --ack stored --pairs 16
  waspmq bench acked --ack delivered --subscribers 3 --rate 500")]
struct Acked {
    /// The level that each message is to reach
    #[arg(long, value_name = "accepted|stored|delivered", default_value = "delivered", value_parser = parse_level)]
    ack: Level,
    /// Publishers, each with a topic of its own
    #[arg(long, value_name = "N", default_value = "1", value_parser = parse_clients)]
    pairs: usize,
    /// Receivers of each topic
    #[arg(long, value_name = "N", default_value = "1", value_parser = parse_clients)]
    subscribers: usize,
    #[command(flatten)]
    drive: Drive,
    #[command(flatten)]
    load: Load,
    #[command(flatten)]
    common: Common,
}

/// How the members of a queue share the messages of a topic
#[derive(Debug, Args)]
#[command(after_help = "\
Each message goes to one member, which acknowledges it. Members do not wait for each other, so
order is not looked at here.

Examples:
  waspmq bench queue --members 8
  waspmq bench queue --members 8 --rate 5000")]
struct Queue {
    /// Members of the queue
    #[arg(long, value_name = "N", default_value = "4", value_parser = parse_clients)]
    members: usize,
    #[command(flatten)]
    drive: Drive,
    #[command(flatten)]
    load: Load,
    #[command(flatten)]
    common: Common,
}

/// Open many connections at a rate and hold them: how long connecting takes, which fail and which are lost
#[derive(Debug, Args)]
#[command(after_help = "\
Each client connects at its time, whether those before it are done or not; connecting is measured
from there until the broker's welcome. At the end each is asked for a sign of life. The broker's
memory per connection is shown where its admin API can be read and has seen these connections.

Examples:
  waspmq bench connections --clients 10000 --rate 1000 --hold 1m
  waspmq bench connections --clients 500 --url wss://broker.example/ws --tls-ca ca.pem")]
struct Connections {
    /// Clients
    #[arg(long, value_name = "N", default_value = "100", value_parser = parse_clients)]
    clients: usize,
    /// Connects a second
    #[arg(long, value_name = "N", default_value = "100", value_parser = parse_rate)]
    rate: f64,
    /// How long they stay behind the last connect: a number and ms, s, m or h
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_time_or_none)]
    hold: Duration,
    #[command(flatten)]
    admin: Admin,
    #[command(flatten)]
    common: Common,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let (plan, common) = match &arguments.scenario {
        Scenario::Latency(it) => {
            (Plan::new("latency", (1, it.subscribers), Pace::Rate(it.rate), &it.load), &it.common)
        }
        Scenario::Throughput(it) => {
            (Plan::new("throughput", (it.pairs, 1), Pace::Window(it.in_flight), &it.load), &it.common)
        }
        Scenario::Fanout(it) => {
            let plan = Plan::new("fanout", (1, it.subscribers), it.drive.pace(), &it.load);
            (Plan { has_spread: true, ..plan }, &it.common)
        }
        Scenario::Acked(it) => {
            let plan = Plan::new("acked", (it.pairs, it.subscribers), it.drive.pace(), &it.load);
            (Plan { level: it.ack, ..plan }, &it.common)
        }
        Scenario::Queue(it) => {
            let plan = Plan::new("queue", (1, it.members), it.drive.pace(), &it.load);
            (Plan { is_queue: true, ..plan }, &it.common)
        }
        Scenario::Connections(it) => return connections::run(it),
    };
    flow::run(&plan, common)
}
