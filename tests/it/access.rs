//! Who may connect: origins, hosts, and the admin token.

use crate::harness::Broker;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

async fn upgrade_status(broker: &Broker, headers: &[(&'static str, &str)]) -> u16 {
    let mut request = broker.url().into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    match tokio_tungstenite::connect_async(request).await {
        Ok((_, response)) => response.status().as_u16(),
        Err(Error::Http(response)) => response.status().as_u16(),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn a_page_of_another_origin_cannot_connect() {
    let broker = Broker::start_with(&[("WASPMQ_ACCESS__ALLOWED_ORIGINS", "https://app.example")]);
    let own = format!("http://{}", broker.address);
    assert_eq!(upgrade_status(&broker, &[]).await, 101);
    assert_eq!(upgrade_status(&broker, &[("origin", &own)]).await, 101);
    assert_eq!(upgrade_status(&broker, &[("origin", "https://app.example")]).await, 101);
    assert_eq!(upgrade_status(&broker, &[("origin", "https://evil.example")]).await, 403);
    assert_eq!(upgrade_status(&broker, &[("origin", "null")]).await, 403);
    // A name of the attacker's that resolves to this machine: origin and host agree.
    let rebound = [("origin", "http://evil.example:9470"), ("host", "evil.example:9470")];
    assert_eq!(upgrade_status(&broker, &rebound).await, 403);
    let extensions = "sec-websocket-extensions";
    assert_eq!(upgrade_status(&broker, &[(extensions, "x-unknown; a=1")]).await, 101);
    assert_eq!(upgrade_status(&broker, &[(extensions, "not / a list")]).await, 400);
}

#[test]
fn the_admin_api_wants_its_token_and_no_browser_tricks() {
    let broker = Broker::start();
    let token = format!("Bearer {}", broker.token());
    let path = "/v1/plugins/evil/revisions";
    let upload = |headers: &[(&str, &str)], content_type: &'static str| {
        broker.http("POST", path, headers, Some((content_type, b"\0asm".to_vec()))).0
    };
    let wasm = "application/wasm";
    assert_eq!(upload(&[], wasm), 401);
    assert_eq!(upload(&[("Authorization", "Bearer wrong")], wasm), 401);
    assert_eq!(upload(&[("Authorization", &token), ("Origin", "https://evil.example")], wasm), 403);
    assert_eq!(upload(&[("Authorization", &token), ("Host", "evil.example")], wasm), 403);
    assert_eq!(upload(&[("Authorization", &token)], "text/plain"), 415);
    assert_eq!(upload(&[("Authorization", &token)], "multipart/form-data"), 415);
    assert_eq!(
        upload(&[("Authorization", &token)], wasm),
        422,
        "with everything right it is only a bad component"
    );
    for open in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(broker.http("GET", open, &[], None).0, 200, "{open}");
    }
    let (status, body) = broker.http("GET", "/v1/status", &[], None);
    let problem: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &problem["status"]), (401, &json!(401)));
}

#[test]
fn a_public_listener_without_access_rules_is_refused() {
    let data = tempfile::tempdir().unwrap();
    let output =
        Broker::command(&data).args(["--listen", "0.0.0.0:0", "--admin", "127.0.0.1:0"]).output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("allow_anonymous") && text.contains("loopback"), "{text}");
}
