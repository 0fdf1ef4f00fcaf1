//! `docs/PLUGIN-REFERENCE.md`: the contract with guests as `plugin-sdk/wit/policy.wit` documents it, the bounds of
//! [`waspmq_policy::limits`], and every way a call, an upload or a policy may end. This module compares the page with what these
//! say, and writes it anew when the test runs with `UPDATE_DOCS` set. Nothing of it is in the broker.

mod bounds;
mod contract;
mod endings;

use contract::Contract;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/PLUGIN-REFERENCE.md");

const INTRODUCTION: &str = "# Plugin reference

Made from `plugin-sdk/wit/policy.wit` and `broker/policy/src/limits.rs`; change the texts there, or in
`broker/server/src/admin/reference/`, and run `UPDATE_DOCS=1 cargo test -p waspmq --lib the_reference_is_up_to_date`.
[PLUGINS.md](PLUGINS.md) is the guide, with a tutorial; [POLICY-OPERATIONS.md](POLICY-OPERATIONS.md) is about policies in service.

";

fn page() -> String {
    let contract = Contract::read();
    let mut page = String::from(INTRODUCTION);
    contract.write(&mut page);
    bounds::write(&mut page);
    endings::write(&mut page);
    page
}

/// A row of a table; line ends and bars would end it.
fn row(cells: &[&str]) -> String {
    let cell = |text: &&str| text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|");
    format!("| {} |\n", cells.iter().map(cell).collect::<Vec<_>>().join(" | "))
}

/// The two lines that a table begins with.
fn head(cells: &[&str]) -> String {
    row(cells) + &row(&vec!["---"; cells.len()])
}

#[test]
fn the_reference_is_up_to_date() {
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(PAGE, page()).unwrap();
    }
    let written = std::fs::read_to_string(PAGE).unwrap_or_default();
    assert!(
        written == page(),
        "docs/PLUGIN-REFERENCE.md differs from the WIT and the limits; run this test with UPDATE_DOCS=1"
    );
}

#[test]
fn everything_in_the_contract_is_documented() {
    assert_eq!(Contract::read().undocumented(), Vec::<String>::new());
}

#[test]
fn the_contract_names_the_bounds_that_hold() {
    let contract = Contract::read();
    for (item, bounds) in bounds::told_by_the_contract() {
        let docs = contract.documentation(item);
        for bound in bounds {
            let told = docs.split(|c: char| !c.is_ascii_digit()).any(|number| number == bound.to_string());
            assert!(told, "the documentation of {item} does not name its bound {bound}: {docs}");
        }
    }
}

#[test]
fn every_hook_has_a_world() {
    let page = page();
    for hook in waspmq_policy::Hook::ALL {
        assert!(page.contains(&format!("\n### World `{}`\n", hook.as_str())), "{}", hook.as_str());
    }
}
