//! The console that the admin listener serves: its page and modules out of the real binary, without a token and for this machine only.

use crate::harness::Broker;

#[test]
fn the_console_is_there_without_a_token_and_what_it_shows_is_not() {
    let broker = Broker::start();
    let (status, page) = broker.http("GET", "/", &[], None);
    assert_eq!(status, 200, "{page}");
    let token = broker.token();
    let mut modules = 0;
    for reference in page.split("=\"console/").skip(1).filter_map(|rest| rest.split('"').next()) {
        let path = format!("/console/{reference}");
        let (status, text) = broker.http("GET", &path, &[], None);
        assert_eq!((status, text.is_empty()), (200, false), "{path}");
        assert!(!text.contains(&token), "{path} has the token");
        assert_eq!(broker.http("GET", &path, &[("Host", "evil.example")], None).0, 403, "{path}");
        assert_eq!(broker.http("GET", &path, &[("Origin", "https://evil.example")], None).0, 403, "{path}");
        modules += usize::from(reference.ends_with(".js"));
    }
    assert!(modules > 15, "{modules} modules: {page}");
    assert!(!page.contains(&token), "the page has the token");
    for path in ["/v1/status", "/v1/policies", "/console/nothing.js"] {
        assert_eq!(broker.http("GET", path, &[], None).0, 401, "{path}");
    }
    assert_eq!(broker.admin("GET", "/console/nothing.js", None).0, 404);
}
