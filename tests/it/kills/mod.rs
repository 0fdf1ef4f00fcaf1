//! The parts of a crash test under load, shared by the short and the long run.

mod actors;
pub(crate) mod dice;
mod rounds;
mod verdict;

/// A number from the environment, such as `CRASH_SEED` and `CRASH_ROUNDS`.
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// So many rounds, unless `CRASH_ROUNDS` says otherwise, with the seed of `CRASH_SEED` or a new one.
pub(crate) async fn run_rounds(rounds: u64) -> verdict::Summary {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let rounds = u32::try_from(number("CRASH_ROUNDS").unwrap_or(rounds)).unwrap();
    rounds::run(rounds, number("CRASH_SEED").unwrap_or_else(|| u64::from(now.subsec_nanos()))).await
}
