//! Containment against brute force over a small alphabet, and what variables may and may not do.

use super::*;
use proptest::prelude::*;

fn pattern(text: &str) -> Pattern {
    Pattern::parse_scope(text).unwrap()
}

fn address(text: &str) -> Address {
    Address::parse(text).unwrap()
}

fn rule(patterns: &[&str], allow: &[Action]) -> Rule {
    Rule {
        patterns: patterns.iter().map(|text| Template::parse(text).unwrap()).collect(),
        allow: allow.iter().copied().collect(),
    }
}

fn rights_of(user: &str, device: Option<&str>, claims: &[(&str, &str)], rules: &[Rule]) -> Rights {
    let user = Name::parse(user).unwrap();
    let device = device.map(|device| Name::parse(device).unwrap());
    let claims: Vec<_> = claims.iter().map(|&(name, value)| (name.into(), value.into())).collect();
    let subject = Subject { user: &user, device: device.as_ref(), claims: &claims };
    Rights::Granted(Grants::new(rules, &subject))
}

#[test]
fn containment() {
    let check = |rule: &str, wanted: &str, expected| {
        assert_eq!(covers(&pattern(rule), &pattern(wanted)), expected, "{rule} covers {wanted}");
    };
    check("topic/a.>", "topic/a.>", true);
    check("topic/a.>", "topic/>", false);
    check("topic/a.>", "topic/a", false);
    check("topic/a.>", "topic/a.*", true);
    check("topic/a.>", "topic/a.*.>", true);
    check("topic/a.>", "topic/*.b", false);
    check("topic/a.*", "topic/a.>", false);
    check("topic/a.*", "topic/a.b", true);
    check("topic/a.*", "topic/a.*", true);
    check("topic/*.*", "topic/a.*", true);
    check("topic/*.>", "topic/>", false);
    check("topic/>", "topic/*", true);
    check("topic/>", "user/a", false);
    check("topic/>", "user/*", false);
    check("topic/>", "all", false);
    check("user/*", "user/a", true);
    check("user/*", "user/*", true);
    check("user/*", "group/*", false);
    check("user/a", "user/b", false);
    check("user/a", "user/*", false);
    check("all", "all", true);
}

#[test]
fn what_no_rule_grants_is_refused() {
    let rights = rights_of("alice", None, &[], &[rule(&["topic/a.>", "all"], &[Action::Publish])]);
    for (action, to, expected) in [
        (Action::Publish, "topic/a.b", true),
        (Action::Publish, "all", true),
        (Action::Publish, "topic/b", false),
        (Action::Publish, "user/alice", false),
        (Action::Subscribe, "topic/a.b", false),
        (Action::Subscribe, "user/alice", true),
        (Action::History, "user/alice", true),
        (Action::History, "user/bob", false),
        (Action::Subscribe, "user/bob", false),
        (Action::Presence, "user/alice", false),
        (Action::Join, "group/a", false),
    ] {
        assert_eq!(rights.allows(action, &address(to)), expected, "{action:?} {to}");
        let reject = rights.check(action, &address(to)).err();
        assert_eq!(reject.is_none(), expected);
        let wanted = Pattern::from(&address(to));
        assert_eq!(rights.covers(action, &wanted), expected, "{action:?} {to} as a pattern");
    }
    let reject = rights.check_pattern(Action::Subscribe, &pattern("topic/>")).unwrap_err();
    assert_eq!(reject.code, Code::Forbidden);
    assert!(reject.message.contains("topic/>"), "{}", reject.message);
    assert!(Rights::Everything.covers(Action::Subscribe, &pattern("topic/>")));
}

#[test]
fn variables_take_their_subjects_values() {
    let rules = [
        rule(&["topic/u.{sub}.>", "user/{sub}"], &[Action::Publish]),
        rule(&["group/{claims.team}"], &[Action::Join]),
        rule(&["topic/d.{device}-x"], &[Action::Subscribe]),
    ];
    let rights = rights_of("alice", Some("phone"), &[("team", "eng")], &rules);
    assert!(rights.allows(Action::Publish, &address("topic/u.alice.x")));
    assert!(!rights.allows(Action::Publish, &address("topic/u.bob.x")));
    assert!(rights.allows(Action::Join, &address("group/eng")));
    assert!(rights.allows(Action::Subscribe, &address("topic/d.phone-x")));
    let bare = rights_of("alice", None, &[], &rules);
    assert!(!bare.allows(Action::Join, &address("group/eng")));
    assert!(!bare.covers(Action::Subscribe, &pattern("topic/d.*")));
}

#[test]
fn a_value_never_widens_a_rule() {
    let rules = [
        rule(&["topic/t.{claims.x}.end", "topic/{claims.x}"], &Action::ALL),
        rule(&["user/{claims.x}", "group/{claims.x}"], &Action::ALL),
    ];
    for value in ["*", ">", "a.b", "a.>", "*.*", "", "a/b", "a b", "#", "..", &"x".repeat(300)] {
        let rights = rights_of("alice", None, &[("x", value)], &rules);
        for wanted in ["topic/>", "topic/t.*.end", "topic/t.a.end", "topic/t.a.b.end", "topic/a.b", "user/*"]
        {
            assert!(!rights.covers(Action::Subscribe, &pattern(wanted)), "{value:?} {wanted}");
        }
    }
    let dotted = rights_of("alice", None, &[("x", "a.b")], &rules);
    assert!(dotted.allows(Action::Join, &address("group/a.b")), "a dot is nothing special in a group's name");
    // A value that looks like a variable is a value.
    let nested = rights_of("alice", None, &[("x", "{sub}")], &rules);
    assert!(!nested.allows(Action::Publish, &address("user/bob")));
    // A user's name with a dot gets no token of its own in a topic.
    let rights = rights_of("a.b", None, &[], &[rule(&["topic/{sub}.>", "user/{sub}"], &[Action::Publish])]);
    assert!(!rights.allows(Action::Publish, &address("topic/a.b.c")));
    assert!(rights.allows(Action::Publish, &address("user/a.b")));
}

#[test]
fn templates_that_are_none() {
    let refused = |text: &str| Template::parse(text).unwrap_err();
    assert_eq!(refused("user/{name}"), TemplateError::UnknownVariable { name: "name".to_owned() });
    assert_eq!(refused("user/{claims.}"), TemplateError::UnknownVariable { name: "claims.".to_owned() });
    assert_eq!(refused("user/{sub"), TemplateError::OpenBrace);
    assert_eq!(refused("user/sub}"), TemplateError::OpenBrace);
    assert_eq!(refused("{sub}"), TemplateError::Address(crate::AddressError::UnknownKind));
    assert_eq!(refused("{claims.kind}/a"), TemplateError::Address(crate::AddressError::UnknownKind));
    assert!(matches!(refused("topic/{sub}*"), TemplateError::Address(_)));
    assert!(matches!(refused("user/{sub}*"), TemplateError::Address(_)));
    assert!(Template::parse("user/*").is_ok() && Template::parse("group/*").is_ok());
}

#[test]
fn words_of_actions() {
    for action in Action::ALL {
        assert_eq!(Action::parse(action.as_str()), Some(action));
        let only: Actions = [action].into_iter().collect();
        assert_eq!(Action::ALL.into_iter().filter(|&other| only.contains(other)).count(), 1);
    }
    assert_eq!(Action::parse("everything"), None);
}

/// Every topic of up to four tokens over two letters.
fn topics() -> Vec<Address> {
    let mut texts = vec![String::new()];
    let mut all = Vec::new();
    for _ in 0..4 {
        let longer = |text: &String| ["a", "b"].map(|token| format!("{text}.{token}"));
        texts = texts.iter().flat_map(longer).collect();
        all.extend(texts.iter().map(|text| address(&format!("topic/{}", &text[1..]))));
    }
    all
}

fn topic_pattern() -> impl Strategy<Value = Pattern> {
    let tokens = prop::collection::vec(prop::sample::select(vec!["a", "b", "*"]), 0..4);
    (tokens, any::<bool>()).prop_map(|(mut tokens, rest)| {
        if rest || tokens.is_empty() {
            tokens.truncate(2);
            tokens.push(">");
        }
        pattern(&format!("topic/{}", tokens.join(".")))
    })
}

proptest! {
    /// Both ways: an allowed pattern reaches nothing outside its rule, and a refused one would.
    #[test]
    fn one_rule_covers_exactly_what_brute_force_says(rule in topic_pattern(), wanted in topic_pattern()) {
        let outside = topics().into_iter().find(|topic| wanted.matches(topic) && !rule.matches(topic));
        prop_assert_eq!(covers(&rule, &wanted), outside.is_none(), "{} {} {:?}", rule, wanted, outside);
    }

    /// With several rules: what is allowed reaches nothing that none of them grants.
    #[test]
    fn an_allowed_pattern_stays_inside_the_rules(
        rules in prop::collection::vec(topic_pattern(), 0..4),
        wanted in topic_pattern(),
    ) {
        let rules = rules.iter().map(|pattern| rule(&[pattern.as_str()], &[Action::Subscribe]));
        let rights = rights_of("alice", None, &[], &rules.collect::<Vec<_>>());
        if rights.covers(Action::Subscribe, &wanted) {
            for topic in topics().iter().filter(|topic| wanted.matches(topic)) {
                prop_assert!(rights.allows(Action::Subscribe, topic), "{} reaches {}", wanted, topic);
            }
        }
    }

    /// Whatever a claim says, the rights it gives lie inside those that any single name or token would get.
    #[test]
    fn no_claim_value_escapes_its_place(value in "[ab.*>/{}# ]{0,6}", wanted in topic_pattern()) {
        let rules = [rule(&["topic/a.{claims.x}"], &[Action::Subscribe])];
        let rights = rights_of("alice", None, &[("x", &value)], &rules);
        if rights.covers(Action::Subscribe, &wanted) {
            prop_assert_eq!(wanted.as_str(), format!("topic/a.{value}"));
            prop_assert!(!wanted.is_wildcard());
        }
    }
}
