//! What the policy is told by its document.

use serde::Deserialize;
use std::collections::BTreeMap;
use waspmq_plugin_common::read;

/// Patterns of content types that a configuration may have.
const TYPES_MAX: usize = 64;
const NAME_BYTES_MAX: usize = 128;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// Messages with fewer bytes go as they are.
    pub(crate) min_bytes: u32,
    /// From so many bytes on, the quickest codec is taken.
    pub(crate) fast_bytes: u32,
    /// Up to so many bytes a dictionary is taken where there is one; in longer messages it is of little use.
    pub(crate) dictionary_bytes: u32,
    /// A message that would keep more of its bytes than this part goes as it is.
    pub(crate) worth: f32,
    /// One in so many messages of a kind is looked into.
    pub(crate) rate: u32,
    pub(crate) levels: Levels,
    /// The header with the content type.
    pub(crate) header: String,
    /// By content type, or by its beginning in front of a star.
    pub(crate) types: BTreeMap<String, Treatment>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Levels {
    pub(crate) zstd: i8,
    pub(crate) deflate: u8,
}

/// What is done with messages of a content type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Treatment {
    /// By what a sample says.
    Auto,
    /// Always compressed.
    Always,
    /// Never.
    None,
}

impl Default for Levels {
    fn default() -> Self {
        Self { zstd: 3, deflate: 6 }
    }
}

impl Default for Config {
    fn default() -> Self {
        let packed =
            ["image/*", "video/*", "audio/*", "application/zip", "application/gzip", "application/zstd"];
        let mut types: BTreeMap<_, _> =
            packed.into_iter().map(|name| (name.to_owned(), Treatment::None)).collect();
        types.insert("image/svg+xml".to_owned(), Treatment::Auto);
        Self {
            min_bytes: 256,
            fast_bytes: 65_536,
            dictionary_bytes: 8_192,
            worth: 0.9,
            rate: 64,
            levels: Levels::default(),
            header: "content-type".to_owned(),
            types,
        }
    }
}

impl Config {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let config: Self = read(text)?;
        let bad = |key: &str, what: &str| Err(format!("{key}: {what}"));
        if config.fast_bytes < config.min_bytes {
            return bad("fast_bytes", "must not be less than min_bytes");
        }
        if !(config.worth > 0.0 && config.worth <= 1.0) {
            return bad("worth", "must be above 0 and at most 1");
        }
        if config.rate == 0 {
            return bad("rate", "must be 1 or more");
        }
        if !(-7..=9).contains(&config.levels.zstd) {
            return bad("levels.zstd", "must be -7 to 9");
        }
        if !(1..=9).contains(&config.levels.deflate) {
            return bad("levels.deflate", "must be 1 to 9");
        }
        if config.header.is_empty() || config.header.len() > NAME_BYTES_MAX {
            return bad("header", &format!("must have 1 to {NAME_BYTES_MAX} bytes"));
        }
        if config.types.len() > TYPES_MAX {
            return bad("types", &format!("has more than {TYPES_MAX} content types"));
        }
        let is_bad = |name: &&String| {
            let stem = name.strip_suffix('*').unwrap_or(name);
            stem.is_empty() || stem.contains('*') || name.len() > NAME_BYTES_MAX
        };
        if let Some(name) = config.types.keys().find(is_bad) {
            let what = format!("must be a content type, or the beginning of one and a star: {name:?}");
            return bad("types", &what);
        }
        let types = config.types.into_iter().map(|(name, of)| (name.to_ascii_lowercase(), of));
        Ok(Self { types: types.collect(), ..config })
    }

    /// What is done with this content type, parameters behind it not counted: the longest of what matches says.
    pub(crate) fn treatment(&self, content_type: &str) -> Treatment {
        let name = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if let Some(exact) = self.types.get(&name) {
            return *exact;
        }
        let matching = self.types.iter().filter_map(|(pattern, of)| {
            let stem = pattern.strip_suffix('*')?;
            name.starts_with(stem).then_some((stem.len(), *of))
        });
        matching.max_by_key(|(len, _)| *len).map_or(Treatment::Auto, |(_, of)| of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_match_says() {
        let config = Config::default();
        for (name, expected) in [
            ("image/png", Treatment::None),
            ("IMAGE/PNG; q=1", Treatment::None),
            ("image/svg+xml", Treatment::Auto),
            ("application/gzip", Treatment::None),
            ("application/json", Treatment::Auto),
            ("", Treatment::Auto),
        ] {
            assert_eq!(config.treatment(name), expected, "{name}");
        }
        let config = Config::parse(r#"{"types":{"Text/*":"always","text/x-*":"none","text/x-log":"auto"}}"#);
        let config = config.unwrap();
        let found =
            ["text/plain", "text/x-key", "text/x-log", "image/png"].map(|name| config.treatment(name));
        assert_eq!(found, [Treatment::Always, Treatment::None, Treatment::Auto, Treatment::Auto]);
    }

    #[test]
    fn what_is_wrong_is_named_by_its_key() {
        let check = |text: &str, expected: &str| {
            let error = Config::parse(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        };
        check(r#"{"min_bytes":10,"fast_bytes":9}"#, "fast_bytes: must not");
        check(r#"{"min_bytes":-1}"#, "min_bytes: invalid value: integer `-1`");
        check(r#"{"worth":0}"#, "worth: must be above 0");
        check(r#"{"worth":1.01}"#, "worth: must be above 0");
        check(r#"{"rate":0}"#, "rate: must be 1");
        check(r#"{"levels":{"zstd":10}}"#, "levels.zstd: must be -7 to 9");
        check(r#"{"levels":{"deflate":0}}"#, "levels.deflate: must be 1 to 9");
        check(r#"{"levels":{"lz4":1}}"#, "unknown field `lz4`");
        check(r#"{"header":""}"#, "header: must have 1");
        check(r#"{"types":{"*":"none"}}"#, "types: must be a content type");
        check(r#"{"types":{"a*b*":"none"}}"#, "types: must be a content type");
        check(r#"{"types":{"a/b":"zstd"}}"#, "types.a/b: unknown variant `zstd`");
        check(r#"{"ratio":1}"#, "unknown field `ratio`");
        let many: Vec<_> = (0..65).map(|n| format!("\"a/{n}\":\"none\"")).collect();
        check(&format!("{{\"types\":{{{}}}}}", many.join(",")), "types: has more than 64");
        assert!(Config::parse("{}").is_ok());
    }
}
