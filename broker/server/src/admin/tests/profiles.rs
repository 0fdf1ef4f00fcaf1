//! Which profiles are taken, and what whoever asks for another one is told.

use super::*;

#[tokio::test]
async fn bad_parameters_are_named() {
    for kind in ["cpu", "heap"] {
        for (query, key) in [
            ("seconds=0", json!("seconds")),
            ("seconds=61", json!("seconds")),
            ("seconds=-1", Value::Null),
            ("seconds=x", Value::Null),
            ("format=png", Value::Null),
            ("second=1", Value::Null),
        ] {
            let answer = Api::new().call("GET", &format!("/v1/profile/{kind}?{query}")).await;
            let problem = answer.problem(400, "invalid_query");
            assert_eq!(problem.get("key").cloned().unwrap_or_default(), key, "{problem}");
        }
    }
}

/// The tests' allocator is the system's, which no heap profile sees.
#[tokio::test]
async fn what_cannot_be_profiled_is_501() {
    let answer = Api::new().call("GET", "/v1/profile/heap?seconds=1").await;
    let problem = answer.problem(501, "not_supported");
    assert!(problem["detail"].as_str().unwrap().contains("allocator"), "{problem}");
}

#[tokio::test]
async fn a_profile_is_read_only() {
    let answer = Api::new().call("POST", "/v1/profile/cpu").await;
    assert_eq!(answer.status, 405, "{}", answer.text);
}
