//! The files of the console: each is served as what it is to whoever may reach the listener, and none has in it what the content policy
//! forbids, or refers to what is not there.

use super::*;
use std::fs;
use std::path::Path;

/// The only address that a file may name: that of the language of drawings, which nobody fetches.
const NAMESPACE: &str = "http://www.w3.org/2000/svg";

/// Every file of the folder, by its path on the listener.
fn files() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("console");
    let mut found: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            let served = if name == "index.html" { "/".to_owned() } else { format!("/console/{name}") };
            (served, fs::read_to_string(&path).unwrap())
        })
        .collect();
    found.sort();
    found
}

fn content_type(path: &str) -> &'static str {
    match path.rsplit('.').next() {
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "text/html; charset=utf-8",
    }
}

#[tokio::test]
async fn every_file_is_served_to_anybody_as_what_it_is() {
    let api = Api::new();
    for (path, text) in files() {
        for peer in [LOOPBACK, ELSEWHERE] {
            let answer = api.send(empty(stranger(peer, "GET", &path))).await;
            assert_eq!((answer.status, answer.text == text), (200, true), "{path}");
            assert_eq!(answer.header("content-type"), content_type(&path), "{path}");
            assert_eq!(answer.header("x-content-type-options"), "nosniff");
            assert_eq!(answer.header("referrer-policy"), "no-referrer");
            assert_eq!(answer.header("cache-control"), "no-cache");
            let policy = answer.header("content-security-policy");
            for rule in [
                "default-src 'none';",
                "script-src 'self';",
                "style-src 'self';",
                "connect-src 'self';",
                "img-src 'self';",
                "frame-ancestors 'none';",
                "base-uri 'none';",
                "form-action 'none';",
                "require-trusted-types-for 'script';",
            ] {
                assert!(policy.contains(rule), "{path}: {policy}");
            }
            assert!(!policy.contains("unsafe"), "{policy}");
        }
        let head = api.send(empty(stranger(LOOPBACK, "HEAD", &path))).await;
        assert_eq!((head.status, head.text.as_str()), (200, ""), "{path}");
        assert_eq!(head.header("content-type"), content_type(&path));
    }
}

#[tokio::test]
async fn what_a_browser_has_is_not_sent_again() {
    let api = Api::new();
    let ask = |path: &str, tag: &str| {
        api.send(empty(stranger(LOOPBACK, "GET", path).header(header::IF_NONE_MATCH, tag)))
    };
    let mut tags = Vec::new();
    for (path, _) in files() {
        let tag = api.send(empty(stranger(LOOPBACK, "GET", &path))).await.header("etag").to_owned();
        assert!(tag.starts_with('"') && tag.len() > 10, "{path}: {tag}");
        for known in [tag.clone(), format!("W/{tag}"), format!("\"other\", {tag}"), "*".to_owned()] {
            let answer = ask(&path, &known).await;
            assert_eq!((answer.status, answer.text.as_str()), (304, ""), "{path} {known}");
            assert_eq!(answer.header("etag"), tag);
        }
        assert_eq!(ask(&path, "\"other\"").await.status, 200);
        tags.push(tag);
    }
    let count = tags.len();
    tags.sort();
    tags.dedup();
    assert_eq!(tags.len(), count, "two files have the same tag");
}

#[tokio::test]
async fn the_console_is_guarded_like_everything_else() {
    let api = Api::new();
    for (path, _) in files() {
        let with = |name: header::HeaderName, value: &'static str| {
            let mut request = empty(stranger(LOOPBACK, "GET", &path));
            request.headers_mut().insert(name, value.parse().unwrap());
            request
        };
        api.send(with(header::HOST, "evil.example")).await.problem(403, "forbidden_host");
        api.send(with(header::ORIGIN, "https://evil.example")).await.problem(403, "forbidden_origin");
        assert_eq!(api.send(with(header::HOST, "broker.example:9471")).await.status, 200);
        for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
            let refused = api.send(empty(stranger(LOOPBACK, method, &path))).await;
            refused.problem(405, "method_not_allowed");
            assert_eq!(refused.header("allow"), "GET,HEAD", "{method} {path}");
        }
    }
    for path in ["/console", "/console/", "/console/nothing.js", "/console/../admin.rs", "/index.html"] {
        api.send(empty(stranger(LOOPBACK, "GET", path))).await.problem(401, "unauthorized");
        api.call("GET", path).await.problem(404, "no_such_endpoint");
    }
    // What is not the console's is still not for caches.
    assert_eq!(api.call("GET", "/v1/status").await.header("cache-control"), "no-store");
}

#[test]
fn files_refer_to_files_that_are_there() {
    let files = files();
    let is_there = |path: &str| files.iter().any(|(known, _)| known == path);
    let mut imported = 0;
    for (path, text) in &files {
        for quoted in between(text, "from \"", "\"") {
            let name = quoted.strip_prefix("./").unwrap_or_else(|| panic!("{path} imports {quoted}"));
            assert!(is_there(&format!("/console/{name}")), "{path} imports {quoted}");
            imported += 1;
        }
    }
    assert!(imported > 20, "{imported} imports were found");
    let page = &files.iter().find(|(path, _)| path == "/").unwrap().1;
    for reference in between(page, "href=\"", "\"").chain(between(page, "src=\"", "\"")) {
        let is_place = reference.starts_with('#') || ["healthz", "readyz", "metrics"].contains(&reference);
        assert!(is_place || is_there(&format!("/{reference}")), "the page refers to {reference}");
    }
    // All modules come at once instead of one behind another.
    for (path, _) in files.iter().filter(|(path, _)| path.ends_with(".js")) {
        assert!(page.contains(&format!("=\"{}\"", &path[1..])), "the page does not name {path}");
    }
}

#[test]
fn nothing_is_inline_or_from_elsewhere_and_no_text_becomes_markup() {
    let forbidden = [
        "http://",
        "https://",
        "url(",
        "@import",
        "<style",
        " style=",
        ".style.",
        "javascript:",
        "eval(",
        "Function(",
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "DOMParser",
        "createContextualFragment",
        "setHTML",
        "srcdoc",
        "localStorage",
        "document.cookie",
        "import(",
    ];
    for (path, text) in files() {
        let text = text.replace(NAMESPACE, "");
        for mark in forbidden {
            assert!(!text.contains(mark), "{path} has {mark}");
        }
        if path == "/" {
            for tag in between(&text, "<", ">") {
                let is_listener = |part: &str| part.starts_with("on") && part.contains('=');
                assert!(!tag.split_whitespace().any(is_listener), "<{tag}>");
            }
            for script in between(&text, "<script", "</script>") {
                assert!(script.contains(" src=") && script.ends_with('>'), "a script is inline: {script}");
            }
        }
    }
}

/// The pieces of a text between two marks.
fn between<'a>(text: &'a str, begin: &'a str, end: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(begin).skip(1).filter_map(move |rest| rest.split(end).next())
}
