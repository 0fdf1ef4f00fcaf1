//! The command line: one binary that serves, publishes, subscribes, and talks to the admin API.
//!
//! Exit codes: 0 done, 1 failed, 2 usage, 64 bad configuration. Results go to standard output, everything else
//! to standard error. `docs/CLI.md` is made from the help texts here, and a test compares the two.

mod api;
mod bench;
mod capture;
mod deadletter;
mod demo;
mod dict;
mod doctor;
mod explain;
mod exposition;
mod failure;
mod group;
mod history;
mod identity;
mod message;
mod open_files;
mod output;
mod plugin;
mod policy;
mod profile;
mod publish;
mod replay;
mod request;
mod rules;
mod serve;
mod session;
mod store;
mod subscribe;
mod tail;
#[cfg(test)]
mod tests;
mod token;
mod top;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Where clients connect when nobody says otherwise.
const DEFAULT_URL: &str = "ws://127.0.0.1:9470/ws";

/// WaspMQ, a real-time message broker whose behaviour is decided by sandboxed WebAssembly policies.
#[derive(Debug, Parser)]
#[command(
    name = "waspmq",
    version,
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Arguments),
    Pub(publish::Arguments),
    Sub(subscribe::Arguments),
    Tail(tail::Arguments),
    Req(request::Arguments),
    History(history::Arguments),
    Message(message::Arguments),
    Deadletter(deadletter::Arguments),
    Plugin(plugin::Arguments),
    Policy(policy::Arguments),
    Dict(dict::Arguments),
    Group(group::Arguments),
    Session(session::Arguments),
    Token(token::Arguments),
    Profile(profile::Arguments),
    Store(store::Arguments),
    Bench(bench::Arguments),
    Demo(demo::Arguments),
    Top(top::Arguments),
    Doctor(doctor::Arguments),
}

/// Runs what the process's arguments ask for.
pub fn run() -> ExitCode {
    let command = match Cli::try_parse() {
        Ok(cli) => cli.command,
        Err(error) => {
            // Help goes to standard output and is no error; a reader that is gone is none either.
            drop(error.print());
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(failure::USAGE));
        }
    };
    let done = match command {
        Command::Serve(arguments) => serve::run(arguments),
        Command::Pub(arguments) => publish::run(&arguments),
        Command::Sub(arguments) => subscribe::run(&arguments),
        Command::Tail(arguments) => tail::run(&arguments),
        Command::Req(arguments) => request::run(&arguments),
        Command::History(arguments) => history::run(&arguments),
        Command::Message(arguments) => message::run(&arguments),
        Command::Deadletter(arguments) => deadletter::run(&arguments),
        Command::Plugin(arguments) => plugin::run(&arguments),
        Command::Policy(arguments) => policy::run(&arguments),
        Command::Dict(arguments) => dict::run(&arguments),
        Command::Group(arguments) => group::run(&arguments),
        Command::Session(arguments) => session::run(&arguments),
        Command::Token(arguments) => token::run(&arguments),
        Command::Profile(arguments) => profile::run(&arguments),
        Command::Store(arguments) => store::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Top(arguments) => top::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
    };
    done.map_or_else(|failure| failure.report(), |()| ExitCode::SUCCESS)
}
