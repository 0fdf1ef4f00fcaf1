//! Address patterns, as subscriptions write them.

/// Whether `pattern` matches `address`: equal texts, or topics in which `*` stands for one token and a last `>`
/// for one or more. Neither text is checked.
pub fn matches(pattern: &str, address: &str) -> bool {
    let (Some(pattern_topic), Some(topic)) = (pattern.strip_prefix("topic/"), address.strip_prefix("topic/"))
    else {
        return pattern == address;
    };
    let mut tokens = topic.split('.');
    for expected in pattern_topic.split('.') {
        match (expected, tokens.next()) {
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (expected, Some(token)) if expected == token => {}
            _ => return false,
        }
    }
    tokens.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns() {
        let check = |pattern, address, expected| {
            assert_eq!(matches(pattern, address), expected, "{pattern} {address}");
        };
        check("topic/a.b", "topic/a.b", true);
        check("topic/a.*", "topic/a.b", true);
        check("topic/a.*", "topic/a", false);
        check("topic/a.*", "topic/a.b.c", false);
        check("topic/a.>", "topic/a.b.c", true);
        check("topic/a.>", "topic/a", false);
        check("topic/>", "user/a", false);
        check("user/a", "user/a", true);
        check("user/*", "user/a", false);
        check("all", "all", true);
    }
}
