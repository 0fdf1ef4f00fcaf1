//! One `check` per question: which file, environment and flags give which value or which complaint.

use super::layers::known_keys;
use super::*;
use std::path::Path;

struct Case {
    file: &'static str,
    environment: &'static [(&'static str, &'static str)],
    flags: Flags,
}

impl Case {
    fn file(file: &'static str) -> Self {
        Self { file, environment: &[], flags: Flags::default() }
    }

    fn environment(environment: &'static [(&'static str, &'static str)]) -> Self {
        Self { file: "", environment, flags: Flags::default() }
    }

    fn load(self) -> Result<Loaded, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("waspmq.toml");
        std::fs::write(&path, self.file).unwrap();
        let own = |text: &str| text.to_owned();
        let sources = Sources {
            file: Some(path),
            environment: self.environment.iter().map(|(name, value)| (own(name), own(value))).collect(),
            flags: self.flags,
        };
        let shorten = |text: String| text.replace(&format!("{}/", directory.path().display()), "");
        load(&sources).map_err(|error| shorten(error.to_string()))
    }

    fn config(self) -> Config {
        self.load().unwrap().config
    }

    /// Loading fails and the complaint holds every part.
    fn refused(self, parts: &[&str]) {
        let error = self.load().unwrap_err();
        for part in parts {
            assert!(error.contains(part), "{part:?} is not in {error:?}");
        }
    }
}

#[test]
fn a_pipe_is_read_at_the_start_and_not_again() {
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
    let sources = Sources { file: Some(pipe.clone()), ..Sources::default() };
    let writer = std::thread::spawn(move || std::fs::write(pipe, "workers = 3").unwrap());
    assert_eq!(load(&sources).unwrap().config.workers, 3);
    writer.join().unwrap();
    // Nobody writes: whoever waited would wait for ever.
    let ConfigError::Unreadable { source, .. } = reload(&sources).unwrap_err() else { panic!() };
    assert_eq!(source.to_string(), "not a regular file");
}

#[test]
fn later_layers_win() {
    let file =
        "listen = \"127.0.0.1:1\"\nworkers = 1\ndata_dir = \"from-file\"\n[limits]\nheartbeat_ms = 2000\n";
    let case = Case {
        file,
        environment: &[("WASPMQ_WORKERS", "2"), ("WASPMQ_DATA_DIR", "from-environment"), ("HOME", "/")],
        flags: Flags { data_dir: Some("from-flag".into()), ..Flags::default() },
    };
    let config = case.config();
    assert_eq!(config.listen, "127.0.0.1:1".parse().unwrap());
    assert_eq!(config.workers, 2);
    assert_eq!(config.data_dir, Path::new("from-flag"));
    assert_eq!(config.limits.heartbeat_ms, 2000);
    assert_eq!(config.limits.connections_max, Config::default().limits.connections_max);
}

#[test]
fn nothing_set_is_the_default() {
    assert_eq!(load(&Sources::default()).unwrap().config, Config::default());
    assert_eq!(Case::file("[limits]\n").config(), Config::default());
}

#[test]
fn every_preset_is_valid_and_gives_way() {
    for name in ["default", "low-latency", "large-messages", "many-connections"] {
        let text = format!("profile = {name:?}\n[limits]\nheartbeat_ms = 7000\n");
        let config = Case::file(text.leak()).config();
        assert_eq!(config.limits.heartbeat_ms, 7000);
        let mut preset = Config::preset(config.profile);
        assert!(preset.problems().is_empty(), "{name}");
        assert_eq!(preset == Config::default(), name == "default");
        preset.limits.heartbeat_ms = 7000;
        assert_eq!(config, preset);
    }
    assert_eq!(Case::environment(&[("WASPMQ_PROFILE", "low-latency")]).config().profile, Profile::LowLatency);
    Case::file("\nprofile = \"fast\"\n").refused(&["waspmq.toml:2: profile:", "low-latency"]);
}

#[test]
fn environment_values_take_the_type_of_their_key() {
    let config = Case::environment(&[
        ("WASPMQ_ACCESS__ALLOW_ANONYMOUS", "true"),
        ("WASPMQ_ACCESS__ALLOWED_ORIGINS", "https://a.example, http://b.example:8080"),
        ("WASPMQ_ADMIN__ALLOWED_HOSTS", "[\"broker.example\"]"),
        ("WASPMQ_ADMIN__OPEN_PROBES", "true"),
        ("WASPMQ_ADMIN__TOKEN", "0123456789abcdef"),
        ("WASPMQ_DATA_DIR", "123"),
    ])
    .config();
    assert!(config.access.allow_anonymous);
    assert_eq!(config.access.allowed_origins, ["https://a.example", "http://b.example:8080"]);
    assert_eq!(config.admin.allowed_hosts, ["broker.example"]);
    assert!(config.admin.open_probes);
    assert_eq!(config.admin.token.as_deref(), Some("0123456789abcdef"));
    assert_eq!(config.data_dir, Path::new("123"));
}

#[test]
fn unknown_keys_are_named_with_their_place() {
    Case::file("[limits]\nheartbeat_ms = 2000\nheartbeat_s = 2\n")
        .refused(&["waspmq.toml:3: limits.heartbeat_s: unknown key", "`limits.heartbeat_ms`"]);
    Case::file("listne = 1\n[limit]\nx = 1\n")
        .refused(&["waspmq.toml:1: listne", "waspmq.toml:3: limit.x: unknown section `limit`"]);
    Case::file("[nothing]\n").refused(&["waspmq.toml:1: nothing: unknown key"]);
    Case::environment(&[("WASPMQ_LIMITS__HEARTBEAT", "1")])
        .refused(&["environment variable WASPMQ_LIMITS__HEARTBEAT: limits.heartbeat"]);
    Case::environment(&[("WASPMQ_LISTN", "1")]).refused(&["WASPMQ_LISTN", "unknown key"]);
    for file in ["limits = 3\n", "[[limits]]\nheartbeat_ms = 2000\n"] {
        Case::file(file).refused(&["waspmq.toml:1: limits: is a section", "[limits]", "WASPMQ_LIMITS__"]);
    }
    Case::environment(&[("WASPMQ_LIMITS", "3")]).refused(&["WASPMQ_LIMITS: limits: is a section"]);
}

#[test]
fn variables_that_are_no_text_are_named() {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;
    let check = |name: &[u8], value: &[u8], expected: Option<&str>| {
        let os = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
        let told = environment([(os(name), os(value))].into_iter()).map_err(|error| error.to_string());
        assert_eq!(told.as_ref().err().map(String::as_str), expected, "{told:?}");
    };
    check(b"WASPMQ_WORKERS", b"1", None);
    check(
        b"WASPMQ_ADMIN__TOKEN",
        b"hunter2\xff",
        Some("environment variable WASPMQ_ADMIN__TOKEN: admin.token: the value is not UTF-8"),
    );
    check(
        b"WASPMQ_\xff",
        b"1",
        Some("environment variable WASPMQ_\u{fffd}: \u{fffd}: the name is not UTF-8"),
    );
    // They are no keys.
    check(b"WASPMQ_TOKEN", b"\xff", None);
    check(b"PATH\xff", b"\xff", None);
}

#[test]
fn what_is_wrong_in_a_list_is_told_with_its_line() {
    Case::file("[[address]]\nmatch = 'topic/a'\n\n[[address]]\nmatch = 'topic/b'\nlevl = 'stored'\n")
        .refused(&["waspmq.toml:6: address: entry 2: unknown field `levl`"]);
    Case::file("[[address]]\nmatch = 'topic/a'\n\n[[address]]\nmatch = 'topic/b'\nlevel = 'storred'\n")
        .refused(&["waspmq.toml:6: address: entry 2: unknown variant `storred`"]);
    Case::file(
        "[[address]]\nmatch = 'topic/a'\n\n[[address]]\nmatch = 'topic/b'\n[[address]]\nlevel = 'stored'\n",
    )
    .refused(&["waspmq.toml:6: address: entry 3: missing field `match`"]);
    Case::file("[access]\nallowed_hosts = [\n'a',\n7]\n")
        .refused(&["waspmq.toml:4: access.allowed_hosts: entry 2: invalid type"]);
    // What does not fit what is elsewhere, too.
    let rules = "[[address]]\nmatch = 'topic/a'\n[[address]]\nbackoff_max_ms = 1\nmatch = 'topic/b'\n[[address]]\nkeep = 'offline'\nmatch = 'topic/c'\n[[address]]\nmatch = 'd'\n";
    Case::file(rules).refused(&[
        "waspmq.toml:4: address: entry 2: rule for \"topic/b\": backoff_max_ms 1 is not between",
        "waspmq.toml:7: address: entry 3: rule for \"topic/c\": keep `offline`",
        "waspmq.toml:10: address: entry 4: rule for \"d\":",
    ]);
    // Nobody wrote the key that the fault is about: the entry.
    Case::file("[[address]]\nmatch = 'all'\n[[address]]\nmatch = 'topic/b'\nbackoff_ms = 3600001\n").refused(
        &[
            "waspmq.toml:5: address: entry 2",
            "waspmq.toml:3: address: entry 2: rule for \"topic/b\": backoff_max_ms",
        ],
    );
    let key = "[[access.keys]]\nid = 'a'\nalgorithm = 'HS256'\nsecret = '01234567890123456789012345678901'\n";
    Case::file(format!("{key}{key}").leak())
        .refused(&["waspmq.toml:6: access.keys: key 2 (\"a\"): another key has this id"]);
    Case::file(format!("{key}[[access.rules]]\nmatch = ['topic/a']\nallow = ['fly']\n").leak())
        .refused(&["waspmq.toml:7: access.rules: rule 1: allow \"fly\""]);
    Case::file("[admin]\nallowed_hosts = [\n'a',\n'b c']\n")
        .refused(&["waspmq.toml:4: admin.allowed_hosts: \"b c\""]);
    Case::file("[tls]\nkey = 'a'\n").refused(&["waspmq.toml:2: tls.key: needs tls.certificate"]);
}

#[test]
fn variables_of_others_are_left_alone() {
    let others = &[
        ("WASPMQ_SERVICE_HOST", "10.0.0.1"),
        ("WASPMQ_PORT", "tcp://10.0.0.1:9470"),
        ("WASPMQ_PORT_9470_TCP_ADDR", "10.0.0.1"),
        ("WASPMQ_ADMIN_SERVICE_PORT", "9471"),
        ("WASPMQ_ADMIN_TOKEN", "for the command line"),
        ("WASPMQ_URL", "ws://127.0.0.1:9470/ws"),
    ];
    assert_eq!(Case::environment(others).config(), Config::default());
}

#[test]
fn wrong_types_and_units_are_named_with_their_place() {
    Case::file("[limits]\n\nheartbeat_ms = \"25s\"\n").refused(&[
        "waspmq.toml:3: limits.heartbeat_ms:",
        "invalid type",
        "milliseconds",
    ]);
    Case::file("limits.max_message_bytes = \"1 MiB\"").refused(&["waspmq.toml:1:", "the unit is bytes"]);
    Case::file("listen = \"localhost\"").refused(&["waspmq.toml:1: listen:"]);
    Case::file("limits = 3\n").refused(&["waspmq.toml:1: limits"]);
    Case::file("[workers]\nx = 3\n").refused(&["waspmq.toml:2: workers.x"]);
    Case::file("[access]\nallowed_origins = [\"https://a.example\", 3]\n")
        .refused(&["waspmq.toml:2: access.allowed_origins:"]);
    Case::environment(&[("WASPMQ_WORKERS", "two")]).refused(&["WASPMQ_WORKERS: workers: invalid type"]);
    Case::file("listen = \n").refused(&["waspmq.toml:1:"]);
}

#[test]
fn ranges_and_relations_are_checked_together() {
    Case::file("workers = 65\n[limits]\npublish_burst = 0\n").refused(&[
        "waspmq.toml:1: workers: 65 is not between 0 and 64",
        "waspmq.toml:3: limits.publish_burst: 0 is not between 1 and 1000000",
    ]);
    Case::file("[limits]\noutbound_bytes_max = 1048576\n")
        .refused(&["waspmq.toml:2: limits.outbound_bytes_max", "max_message_bytes"]);
    Case::file("[limits]\nworker_outbound_bytes_max = 1048576\n")
        .refused(&["waspmq.toml:2: limits.worker_outbound_bytes_max"]);
    Case::file("[admin]\nlisten = \"127.0.0.1:9470\"\n").refused(&["waspmq.toml:2: admin.listen"]);
    Case::file("[admin]\ntoken = \"short\"\n").refused(&["waspmq.toml:2: admin.token: must be 16"]);
    Case::file("[admin]\nallowed_origins = [\"example.org/\"]\n").refused(&["admin.allowed_origins"]);
    Case::file("[admin]\nallowed_hosts = [\"a b\"]\n").refused(&["admin.allowed_hosts"]);
    Case::file("[log]\nfilter = \"=====\"\n").refused(&["waspmq.toml:2: log.filter"]);
}

#[test]
fn the_configuration_for_kubernetes_can_be_used() {
    let text = include_str!("../../../../deploy/kubernetes/waspmq.toml");
    let key = "algorithm = \"EdDSA\"\npublic_key_file = \"/etc/waspmq/access/issuer.pub.pem\"";
    assert!(text.contains(key), "the key is another one than the Secret's of docs/DEPLOY.md");
    let secret = "algorithm = \"HS256\"\nsecret = \"0123456789abcdef0123456789abcdef\"";
    let config = Case::file(text.replace(key, secret).leak()).config();
    assert!(config.admin.open_probes && !config.admin.listen.ip().is_loopback());
}

#[test]
fn an_open_listener_needs_a_decision() {
    let open = || Flags { listen: Some("0.0.0.0:9470".parse().unwrap()), ..Flags::default() };
    Case { file: "", environment: &[], flags: open() }.refused(&[
        "flag --listen: listen: 0.0.0.0:9470",
        "127.0.0.1:9470",
        "access.allow_anonymous = true",
    ]);
    let allowed = Case { file: "[access]\nallow_anonymous = true\n", environment: &[], flags: open() };
    let loaded = allowed.load().unwrap();
    assert_eq!(loaded.config.listen.port(), 9470);
    assert!(loaded.warnings.iter().any(|warning| warning.contains("any user")));
    for loopback in ["[::1]:1", "127.8.9.1:1", "[::ffff:127.0.0.1]:1"] {
        let text = format!("listen = {loopback:?}\n");
        assert!(Case::file(text.leak()).load().unwrap().warnings.is_empty(), "{loopback}");
    }
}

#[test]
fn keys_are_another_way_to_open_a_listener() {
    let file = "[access]\nkeys = [{ id = \"k\", algorithm = \"HS256\", \
                secret = \"hunter2-hunter2-hunter2-hunter2-hunter2\" }]\n";
    let flags = Flags { listen: Some("0.0.0.0:9470".parse().unwrap()), ..Flags::default() };
    let loaded = Case { file, environment: &[], flags }.load().unwrap();
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    let printed = loaded.to_toml();
    assert!(printed.contains("[[access.keys]]") && printed.contains("not shown"), "{printed}");
    assert!(!printed.contains("hunter2") && !format!("{loaded:?}").contains("hunter2"));
}

#[test]
fn what_is_wrong_with_a_secret_is_said_without_it() {
    let list = "expected a sequence; what is there is not shown";
    let table = "entry 1: expected a table with `id`, `algorithm` and the key; what is there is not shown";
    for (case, expected) in [
        (Case::environment(&[("WASPMQ_ACCESS__KEYS", "[{id=\"a\",secret=\"hunter2, expected \"")]), list),
        (Case::environment(&[("WASPMQ_ACCESS__KEYS", "{secret=\"hunter2\"}")]), table),
        (Case::file("access.keys = [\"hunter2\"]\n"), table),
        (Case::file("access.keys = \"hunter2\"\n"), list),
        (
            Case::file("[[access.keys]]\nid = \"k\"\nalgorithm = \"hunter2\"\n"),
            "entry 1: expected one of `HS256`",
        ),
        (
            Case::file("[[access.keys]]\nid = \"k\"\nalgorithm = \"HS256\"\nsecret = [\"hunter2\"]\n"),
            "entry 1: expected",
        ),
        (
            Case::file("admin.token = [\"hunter2\"]\n"),
            "admin.token: expected a string; what is there is not shown",
        ),
    ] {
        let error = case.load().unwrap_err().to_string();
        assert!(error.contains(expected) && !error.contains("hunter2"), "{error}");
    }
}

#[test]
fn access_is_checked_as_a_whole() {
    Case::file("\n[[access.keys]]\nid = \"k\"\nalgorithm = \"HS256\"\nsecret = \"hunter2\"\n")
        .refused(&["waspmq.toml:5: access.keys: key 1 (\"k\"): the secret has fewer than 32 bytes"]);
    Case::file("[[access.keys]]\nid = \"k\"\nalgorithm = \"none\"\n")
        .refused(&["waspmq.toml:3: access.keys: entry 1", "HS256"]);
    Case::file("[[access.keys]]\nid = \"k\"\nalgorithm = \"HS256\"\nkey = \"x\"\n")
        .refused(&["waspmq.toml:4: access.keys: entry 1", "unknown field `key`"]);
    Case::file("[[access.rules]]\nmatch = [\"topic/a\"]\nallow = [\"publish\"]\n")
        .refused(&["waspmq.toml:1: access.rules: rules are for those who show a token"]);
    Case::file("[access]\nlogin = \"kick\"\n").refused(&["waspmq.toml:2: access.login", "replace"]);
    Case::file("[access]\nsessions_per_user = 65\ntoken_leeway_ms = 300001\n").refused(&[
        "waspmq.toml:2: access.sessions_per_user: 65 is not between 1 and 64",
        "waspmq.toml:3: access.token_leeway_ms",
    ]);
}

#[test]
fn an_open_admin_listener_is_a_warning() {
    let loaded = Case::file("[admin]\nlisten = \"0.0.0.0:9471\"\n").load().unwrap();
    assert!(loaded.warnings.iter().any(|warning| warning.contains("admin.token is not configured")));
}

#[test]
fn what_is_printed_can_be_read_again() {
    let case = Case {
        file: "profile = \"many-connections\"\n[admin]\ntoken = \"0123456789abcdef\"\n",
        environment: &[("WASPMQ_WORKERS", "3")],
        flags: Flags { listen: Some("127.0.0.1:1".parse().unwrap()), ..Flags::default() },
    };
    let loaded = case.load().unwrap();
    let printed = loaded.to_toml();
    assert!(printed.contains("workers = 3  # environment variable WASPMQ_WORKERS\n"), "{printed}");
    assert!(printed.contains("listen = \"127.0.0.1:1\"  # flag --listen\n"), "{printed}");
    assert!(printed.contains("waspmq.toml:1\n"), "{printed}");
    assert!(!printed.contains("0123456789abcdef") && !format!("{loaded:?}").contains("0123456789abcdef"));
    let mut expected = loaded.config;
    expected.admin.token = None;
    assert_eq!(Case::file(printed.leak()).config(), expected);
}

const GUIDE: &str = include_str!("../../../../docs/CONFIG.md");

/// The row of docs/CONFIG.md that begins with `name`, as cells.
fn row(name: &str) -> Vec<&'static str> {
    let start = format!("| `{name}` |");
    let line = GUIDE.lines().find(|line| line.starts_with(&start));
    let line = line.unwrap_or_else(|| panic!("docs/CONFIG.md has no row for {name}"));
    line.trim_matches('|').split('|').map(str::trim).collect()
}

/// Keys that need not have a value.
const OPTIONAL: [&str; 5] = ["admin.token", "access.issuer", "access.audience", "tls.certificate", "tls.key"];

#[test]
fn the_guide_has_every_key_with_its_default() {
    for (key, value) in known_keys() {
        let default = match &value {
            _ if OPTIONAL.contains(&&*key) => "none".to_owned(),
            toml::Value::String(text) => format!("`\"{text}\"`"),
            other => format!("`{other}`"),
        };
        assert_eq!(row(&key)[1], default, "{key}");
    }
}

#[test]
fn the_guide_has_every_range() {
    for bound in &BOUNDS {
        let row = row(bound.key);
        assert_eq!((row[2], row[3]), (&*bound.min.to_string(), &*bound.max.to_string()), "{}", bound.key);
    }
    let numbers = known_keys().into_values().filter(toml::Value::is_integer).count();
    assert_eq!(numbers, BOUNDS.len(), "every number has a range");
}

/// `value` of `pub const NAME: type = value;`, as the source writes it.
fn constants(source: &str) -> impl Iterator<Item = (&str, &str)> {
    source.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("pub const ")?.split_once(':')?;
        Some((name, rest.split_once(" = ")?.1.trim_end_matches(';')))
    })
}

#[test]
fn the_guide_has_every_fixed_bound_with_its_value() {
    let sources = [
        ("broker/core/src/limits.rs", include_str!("../../../core/src/limits.rs")),
        ("broker/protocol/src/limits.rs", include_str!("../../../protocol/src/limits.rs")),
        ("broker/transport/src/limits.rs", include_str!("../../../transport/src/limits.rs")),
        ("broker/policy/src/limits.rs", include_str!("../../../policy/src/limits.rs")),
        ("broker/server/src/admin/limits.rs", include_str!("../admin/limits.rs")),
    ];
    for (path, source) in sources {
        let (_, section) =
            GUIDE.split_once(&format!("(`{path}`)")).unwrap_or_else(|| panic!("no section for {path}"));
        let section = section.split("\n#").next().unwrap();
        assert!(constants(source).count() >= 5, "{path}");
        for (name, value) in constants(source) {
            assert!(section.contains(&format!("\n| `{name}` | {value} |")), "{path}: {name} = {value}");
        }
    }
}

#[test]
fn the_guide_shows_what_profiles_change() {
    let (_, section) = GUIDE.split_once("\n## Profiles").unwrap();
    let profiles = [Profile::LowLatency, Profile::LargeMessages, Profile::ManyConnections];
    for bound in &BOUNDS {
        let default = (bound.value)(&Config::default());
        let cells = profiles.map(|profile| match (bound.value)(&Config::preset(profile)) {
            value if value == default => " |".to_owned(),
            value => format!(" {value} |"),
        });
        let expected = format!("\n| `{}` |{}", bound.key, cells.concat());
        let is_changed = cells.iter().any(|cell| cell != " |");
        assert_eq!(section.contains(&expected), is_changed, "{expected}");
    }
}
