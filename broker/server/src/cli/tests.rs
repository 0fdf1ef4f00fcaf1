//! The help texts, and that `docs/CLI.md` is made of them.

use super::Cli;
use clap::CommandFactory;
use std::fmt::Write;

const WIDTH: usize = 100;

/// The page, from the same definitions that parse the arguments.
fn page() -> String {
    let mut page = String::from(
        "# Command line\n\n\
         Made from the help texts by `broker/server/src/cli/tests.rs`; change the texts there and run that test with\n\
         `UPDATE_DOCS=1`. Exit codes: 0 done, 1 failed, 2 usage, 64 bad configuration.\n",
    );
    let mut root = Cli::command().term_width(WIDTH);
    root.build();
    describe(&mut page, &mut root, "##");
    page
}

fn describe(page: &mut String, command: &mut clap::Command, heading: &str) {
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name()).to_owned();
    // What the environment of the test holds does not belong into the page.
    let shown = command.clone().mut_args(|argument| argument.hide_env_values(true));
    let help = shown.term_width(WIDTH).render_long_help().to_string();
    let help: Vec<_> = help.lines().map(str::trim_end).collect();
    write!(page, "\n{heading} {name}\n\n```text\n{}\n```\n", help.join("\n").trim_end()).unwrap();
    let inner: Vec<_> =
        command.get_subcommands_mut().filter(|command| command.get_name() != "help").collect();
    for command in inner {
        describe(page, command, "###");
    }
}

#[test]
fn the_page_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/CLI.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, page()).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(written == page(), "docs/CLI.md differs from the help texts; run this test with UPDATE_DOCS=1");
}

#[test]
fn the_definitions_agree_with_each_other() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_explains_itself() {
    let root = Cli::command();
    for command in root.get_subcommands() {
        assert!(command.get_about().is_some(), "{} has no description", command.get_name());
        assert!(command.get_after_help().is_some(), "{} has no example", command.get_name());
        for inner in command.get_subcommands() {
            assert!(inner.get_about().is_some(), "{} {}", command.get_name(), inner.get_name());
        }
    }
}

/// A longer line is broken again where it is shown, and the one behind it begins in the middle.
#[test]
fn help_fits_the_screen_and_every_argument_has_one() {
    let mut waiting = vec![Cli::command()];
    while let Some(command) = waiting.pop() {
        let name = command.get_name();
        let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let long: Vec<_> = after.lines().filter(|line| line.chars().count() > WIDTH).collect();
        assert!(long.is_empty(), "{name}: {long:?}");
        for argument in command.get_arguments() {
            assert!(argument.get_help().is_some(), "{name}: {} has no help", argument.get_id());
        }
        waiting.extend(command.get_subcommands().cloned());
    }
}

fn parses(arguments: &str) -> bool {
    use clap::Parser;
    Cli::try_parse_from(std::iter::once("waspmq").chain(arguments.split(' '))).is_ok()
}

#[test]
fn the_contract_parses() {
    for line in [
        "serve --config waspmq.toml --data-dir d --listen 127.0.0.1:9470 --admin 127.0.0.1:9471",
        "serve --print-config",
        "pub user/bob hi --as alice --ack delivered --url ws://x/ws --header k=v --header l=w --key k --bytes",
        "pub user/bob - --token x.y.z",
        "sub topic/a user/b --as b --count 3 --json --url ws://x/ws",
        "sub topic/a --queue q",
        "sub topic/a --url quic://[::1]:9470 --tls-fingerprint 0a:1b",
        "pub topic/a x --url wt://x --transport auto --tls-ca c.pem",
        "sub topic/a --from earliest --device phone",
        "sub topic/a --from s3e1:57",
        "sub topic/a --from 2026-01-31T12:00:00Z --reply x",
        "tail",
        "tail topic/a.> user/* --from alice --payload --count 3 --json --admin 127.0.0.1:1",
        "pub user/bob hi --dedup k --ttl-ms 5 --delay-ms 6 --priority 9 --device d --reply-to user/a",
        "req topic/a {} --timeout 2 --as a --token t",
        "history user/bob --after s3e1:57 --limit 5 --json",
        "message show 01 --to user/bob --json",
        "deadletter list --cause timeout --to topic/a.> --recipient user/b --limit 5",
        "deadletter show 01",
        "deadletter requeue 01 02",
        "deadletter requeue 01 --recipient user/b",
        "deadletter requeue --all",
        "deadletter purge --cause nack --recipient user/b",
        "store check --data-dir d --json",
        "dict train --from c.jsonl --address topic/orders.> --address user/* --size 32KiB --holdout 20 -o d",
        "dict train a b --lines --out d --json",
        "dict train - -o d",
        "dict push orders d --match topic/orders.> --match all",
        "dict list --json",
        "dict show orders",
        "dict rm orders",
        "store repair",
        "plugin new orders --lang rust --hook ack --dir d --sdk s",
        "plugin new orders --lang assemblyscript",
        "plugin build",
        "plugin build d --json",
        "plugin check a.wasm --config {} --memory-mb 32",
        "plugin test a.wasm --vectors v.toml --config @c.json --only x --json",
        "plugin bench a.wasm --vectors v.toml --rounds 5",
        "plugin push a.wasm --name a",
        "plugin list --json",
        "plugin show a --admin 127.0.0.1:1 --token t",
        "policy set n --plugin p@1 --match topic/a --match all --config {} --order -1 --mode off --on-failure closed --deadline-ms 5 --memory-mb 8",
        "policy set n --plugin p --match all --mode shadow --on-failure previous --required",
        "policy set n --plugin p --match all --canary 5 --on-failure builtin",
        "policy set n --rules r.toml --match topic/a --hook admission --mode shadow --order 3",
        "policy shadow n --plugin p@2 --config {}",
        "policy shadow n --rules r.toml",
        "policy canary n 10 --rules r.json",
        "policy rules check r.toml --hook overflow --json",
        "policy canary n 10 --plugin p@2",
        "policy activate n",
        "policy rollback n",
        "policy rollback n --generation 7",
        "policy activate n --generation 7",
        "group add g a b",
        "session close 0000010000000001",
        "token mint --sub a --key k.pem --algorithm ES256 --kid k --ttl 15m --device d --claim k=v --allow publish:topic/x.>",
        "token mint --sub a --secret-file s --allow publish,subscribe:user/{sub}",
        "token show x.y.z",
        "token keygen --algorithm EdDSA --out issuer",
        "bench latency --rate 500 --subscribers 2 --size 64 --duration 5s --warmup 0s --json --url quic://x",
        "bench throughput --pairs 4 --in-flight 8 --messages 100 --profile json --threads 1 --token t",
        "bench fanout --subscribers 9 --rate 0.5 --tls-fingerprint 0a:1b --transport wt",
        "bench acked --ack stored --pairs 2 --subscribers 2 --in-flight 8",
        "bench queue --members 3",
        "bench connections --clients 10 --rate 5 --hold 0s --admin 127.0.0.1:1 --admin-token t",
        "demo --once --plugins d",
        "doctor --json",
        "top --interval 0.5 --admin 127.0.0.1:1",
        "top --json --count 2 --token t",
        "top --once",
    ] {
        assert!(parses(line), "{line}");
    }
}

#[test]
fn what_is_missing_or_contradicts_itself_does_not_parse() {
    for line in [
        "",
        "pub user/bob",
        "sub",
        "plugin new orders",
        "plugin new orders --lang cobol",
        "plugin test a.wasm",
        "plugin bench a.wasm --vectors v.toml --rounds 0",
        "policy set n --plugin p",
        "policy set n --match all",
        "policy set n --plugin p --rules r.toml --match all",
        "policy set n --rules r.toml --match all --config {}",
        "policy shadow n",
        "policy shadow n --plugin p --rules r.toml",
        "policy rules check r.toml",
        "policy canary n 100 --plugin p@2",
        "sub all --count 0",
        "tail --count 0",
        "sub all --from sometime",
        "pub all x --priority 10",
        "deadletter purge",
        "deadletter purge 01 --all",
        "deadletter requeue --all --cause nack",
        "req all",
        "pub all x --ack maybe",
        "top --interval 0",
        "top --count 0",
        "top --once --count 2",
        "token mint --sub a",
        "token mint --sub a --key k",
        "bench",
        "bench latency --rate 0",
        "bench latency --duration 0s",
        "bench latency --duration 5",
        "bench latency --duration 5s --messages 5",
        "bench throughput --pairs 0",
        "bench throughput --rate 5",
        "bench fanout --rate 5 --in-flight 5",
        "bench acked --ack none",
        "bench queue --in-flight 100000",
        "bench connections --clients 1000000",
    ] {
        assert!(!parses(line), "{line}");
    }
}
