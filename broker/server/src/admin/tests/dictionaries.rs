//! Dictionaries over HTTP: what is taken, shown and refused.

use super::*;
use std::sync::LazyLock;
use waspmq_protocol::codec::{self, DICTIONARY_BYTES_MAX};

static TRAINED: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let samples: Vec<_> =
        (0..200).map(|i| format!(r#"{{"order":{i},"customer":{{"id":{}}}}}"#, i * 7_919)).collect();
    let samples: Vec<&[u8]> = samples.iter().map(String::as_bytes).collect();
    codec::train(&samples, 1_024).unwrap()
});

impl Api {
    async fn push(&self, path: &str, bytes: &[u8]) -> Answer {
        let request = operator("POST", path)
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .header(header::CONTENT_LENGTH, bytes.len());
        self.send(request.body(Body::from(bytes.to_vec())).unwrap()).await
    }
}

#[tokio::test]
async fn dictionaries_come_and_go() {
    let api = Api::new();
    assert_eq!(
        api.call("GET", "/v1/dictionaries").await.json(),
        json!({"generation": 0, "dictionaries": []})
    );
    let path = "/v1/dictionaries/orders/revisions?match=topic/orders.%3E&match=user/*";
    let pushed = api.push(path, &TRAINED).await;
    assert_eq!(pushed.status, 201);
    let mut pushed = pushed.json();
    let digest = blake3::hash(&TRAINED).to_hex().to_string();
    assert!(pushed["pushed_unix_ms"].take().is_u64());
    let expected = json!({
        "name": "orders", "revision": 1, "id": 1, "digest": digest, "bytes": TRAINED.len(),
        "match": ["topic/orders.>", "user/*"], "pushed_unix_ms": null
    });
    assert_eq!(pushed, expected);
    let again = api.push(path, &TRAINED).await;
    assert_eq!((again.status, again.json()["revision"].clone()), (200, json!(1)));
    let next = api.push("/v1/dictionaries/orders/revisions?match=all", &TRAINED).await;
    assert_eq!((next.status, next.json()["id"].clone()), (201, json!(2)));

    let listed = api.call("GET", "/v1/dictionaries").await.json();
    assert_eq!((&listed["generation"], &listed["dictionaries"][0]["revision"]), (&json!(2), &json!(2)));
    let shown = api.call("GET", "/v1/dictionaries/orders").await.json();
    let numbers: Vec<_> =
        shown["revisions"].as_array().unwrap().iter().map(|kept| kept["revision"].clone()).collect();
    assert_eq!(numbers, [1, 2]);
    assert!(api.call("GET", "/metrics").await.text.contains("\nwaspmq_dictionaries 1\n"));

    assert_eq!(api.call("DELETE", "/v1/dictionaries/orders").await.status, 204);
    for (method, path) in [
        ("DELETE", "/v1/dictionaries/orders"),
        ("GET", "/v1/dictionaries/orders"),
        ("GET", "/v1/dictionaries/orders?bytes"),
    ] {
        api.call(method, path).await.problem(404, "not_found");
    }
}

#[tokio::test]
async fn the_bytes_come_back() {
    let api = Api::new();
    api.push("/v1/dictionaries/orders/revisions?match=all", &TRAINED).await;
    let accepting =
        operator("GET", "/v1/dictionaries/orders").header(header::ACCEPT, "application/octet-stream");
    for request in [operator("GET", "/v1/dictionaries/orders?bytes"), accepting] {
        let response = api.router.clone().oneshot(empty(request)).await.unwrap();
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/octet-stream");
        let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        assert_eq!(bytes, TRAINED.as_slice());
    }
    api.call("GET", "/v1/dictionaries/orders?revision=1").await.problem(400, "invalid_query");
}

#[tokio::test]
async fn what_does_not_fit_is_refused_and_says_why() {
    let api = Api::new();
    let path = "/v1/dictionaries/orders/revisions?match=all";
    for bytes in [&b""[..], b"{}", &[0; 5_000], &TRAINED[..40], &[0x37, 0xa4, 0x30, 0xec].repeat(100)] {
        let problem = api.push(path, bytes).await.problem(422, "unfit_dictionary");
        assert!(
            problem["detail"].as_str().unwrap().starts_with("these bytes are not a dictionary: "),
            "{problem}"
        );
    }
    let large = [&TRAINED[..], &vec![b'x'; DICTIONARY_BYTES_MAX]].concat();
    api.push(path, &large).await.problem(413, "body_too_large");
    for (query, key) in [("", "match"), ("?match=topic/a..b", "match"), ("?match=all&mach=all", "mach")] {
        let path = format!("/v1/dictionaries/orders/revisions{query}");
        assert_eq!(api.push(&path, &TRAINED).await.problem(400, "invalid_query")["key"], key, "{query}");
    }
    let problem =
        api.push("/v1/dictionaries/Orders/revisions?match=all", &TRAINED).await.problem(400, "invalid_name");
    assert_eq!(problem["key"], "name");
    api.call_with("POST", path, "{}").await.problem(415, "unsupported_media_type");
    assert_eq!(api.call("GET", "/v1/dictionaries").await.json()["generation"], 0, "nothing was changed");
}
