//! Tests of the public API: frames by example, by property and under attack, and the documents made from them.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod hostile;
mod packed;
mod pages;
mod payload;
mod roundtrip;
mod tables;
mod vectors;
