//! Components for tests: the built ones, and hostile ones written as text.

use std::path::PathBuf;

fn target() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.join(target.unwrap_or_else(|| "target".into()))
}

/// A component that `cargo xtask plugins` builds.
pub(crate) fn built(name: &str) -> Vec<u8> {
    let path = target().join(format!("plugins/{name}.wasm"));
    std::fs::read(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; build it with `cargo xtask plugins`", path.display()))
}

/// Of what `cargo xtask plugins` makes of templates, the names of those without an engine or interpreter.
pub(crate) fn templates() -> Vec<String> {
    let list = target().join("templates/components.txt");
    let text = std::fs::read_to_string(&list)
        .unwrap_or_else(|error| panic!("{}: {error}; run `cargo xtask plugins`", list.display()));
    let is_quick = |name: &&str| !name.starts_with("javascript-") && !name.starts_with("python-");
    text.lines().filter(is_quick).map(str::to_owned).collect()
}

/// A component in parts, all of which can be replaced: function bodies of its main module in WebAssembly text.
///
/// Memory below 4096 belongs to the bodies, the allocator's heap begins there and is emptied by each call.
/// `route` has the parameters `$sender $sender_len $address $address_len $kind $key $key_len $size $priority $ts`
/// and answers a pointer to a verdict of 40 bytes: case at 0, its value at 8, headers (pointer, count) at 24, cache at 32.
#[derive(Clone)]
pub(crate) struct Guest {
    pub(crate) pages: u32,
    pub(crate) data: String,
    pub(crate) configure: &'static str,
    pub(crate) self_test: &'static str,
    pub(crate) members_changed: &'static str,
    pub(crate) route: String,
    /// Replaces pieces of the component's text.
    pub(crate) edits: Vec<(&'static str, &'static str)>,
}

/// The verdict `continue` without headers lies at 1024, which is zero.
pub(crate) const CONTINUE: &str = "(i32.const 1024)";
/// `ok` of a `result<_, string>` lies at 1024 as well.
const OK: &str = "(i32.const 1024)";

impl Default for Guest {
    fn default() -> Self {
        Self {
            pages: 2,
            data: String::new(),
            configure: OK,
            self_test: OK,
            members_changed: "",
            route: CONTINUE.to_owned(),
            edits: Vec::new(),
        }
    }
}

impl Guest {
    pub(crate) fn routing(route: &str) -> Vec<u8> {
        Self { route: route.to_owned(), ..Self::default() }.build()
    }

    /// A guest whose verdict is constant: `case` with the value in `fields` (offset, i32).
    pub(crate) fn answering(case: u8, fields: &[(u32, u32)], data: &str) -> Vec<u8> {
        let stores: String = fields
            .iter()
            .map(|(at, value)| format!("(i32.store (i32.const {}) (i32.const {value}))", 2048 + at))
            .collect();
        let route = format!("(i32.store8 (i32.const 2048) (i32.const {case})) {stores} (i32.const 2048)");
        Self { pages: 64, data: data.to_owned(), route, ..Self::default() }.build()
    }

    pub(crate) fn build(&self) -> Vec<u8> {
        let text = TEMPLATE
            .replace("@pages", &self.pages.to_string())
            .replace("@data", &self.data)
            .replace("@configure", self.configure)
            .replace("@self-test", self.self_test)
            .replace("@members-changed", self.members_changed)
            .replace("@route", &self.route);
        let text = self.edits.iter().fold(text, |text, (from, to)| {
            assert!(text.contains(from), "{from} is not in the template");
            text.replace(from, to)
        });
        wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}"))
    }
}

const TEMPLATE: &str = r#"
(component
  (import "waspmq:policy/types@0.1.0" (instance $types
    (type $kind-of (enum "user" "group" "topic" "all"))
    (export "kind" (type $kind (eq $kind-of)))
    (type $message-of (record (field "sender" string) (field "address" string) (field "kind" $kind)
      (field "key" string) (field "size" u32) (field "priority" u8) (field "ts" u64)))
    (export "message" (type (eq $message-of)))
    (type $names-of (list string))
    (type $members-of (record (field "pattern" string) (field "queue" string) (field "version" u64)
      (field "members" $names-of)))
    (export "queue-members" (type (eq $members-of)))
    (type $pick-of (record (field "version" u64) (field "index" u32)))
    (export "pick" (type $pick (eq $pick-of)))
    (type $route-of (variant (case "continue") (case "deliver") (case "redirect" string)
      (case "fan-out" (list string)) (case "pick" $pick) (case "drop" string)))
    (export "route" (type $route (eq $route-of)))
    (type $cache-of (enum "never" "address" "connection"))
    (export "cache" (type $cache (eq $cache-of)))
    (type $verdict-of (record (field "route" $route) (field "set-headers" (list (tuple string string)))
      (field "cache" $cache)))
    (export "verdict" (type (eq $verdict-of)))))
  (alias export $types "message" (type $message))
  (alias export $types "queue-members" (type $members))
  (alias export $types "verdict" (type $verdict))
  (import "waspmq:policy/host@0.1.0" (instance $host
    (type $level-of (enum "debug" "info" "warn" "error"))
    (export "level" (type $level (eq $level-of)))
    (export "log" (func (param "level" $level) (param "text" string)))
    (export "counter" (func (param "name" string) (param "delta" u64)))
    (export "header" (func (param "name" string) (result (option string))))))

  (core module $libc
    (memory (export "memory") @pages)
    (global $heap (mut i32) (i32.const 4096))
    (func (export "free-all") (global.set $heap (i32.const 4096)))
    (func (export "realloc") (param $old i32) (param $old_len i32) (param $align i32) (param $len i32) (result i32)
      (local $at i32)
      (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))
      (global.set $heap (i32.add (local.get $at) (local.get $len)))
      (if (i32.gt_u (global.get $heap) (i32.shl (memory.size) (i32.const 16)))
        (then (if (i32.eq (memory.grow (i32.const 16)) (i32.const -1)) (then unreachable))))
      (local.get $at)))
  (core instance $libc (instantiate $libc))
  (core func $log (canon lower (func $host "log") (memory (core memory $libc "memory"))))
  (core func $counter (canon lower (func $host "counter") (memory (core memory $libc "memory"))))
  (core func $header (canon lower (func $host "header") (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))
  (core module $main
    (import "libc" "memory" (memory 1))
    (import "libc" "free-all" (func $free-all))
    (import "host" "log" (func $log (param i32 i32 i32)))
    (import "host" "counter" (func $counter (param i32 i32 i64)))
    (import "host" "header" (func $header (param i32 i32 i32)))
    @data
    (func (export "configure") (param i32 i32) (result i32) (call $free-all) @configure)
    (func (export "self-test") (result i32) @self-test)
    (func (export "members-changed") (param i32 i32 i32 i32 i64 i32 i32) (call $free-all) @members-changed)
    (func (export "route")
      (param $sender i32) (param $sender_len i32) (param $address i32) (param $address_len i32) (param $kind i32)
      (param $key i32) (param $key_len i32) (param $size i32) (param $priority i32) (param $ts i64) (result i32)
      (local $i i32)
      (call $free-all)
      @route))
  (core instance $main (instantiate $main
    (with "libc" (instance $libc))
    (with "host" (instance (export "log" (func $log)) (export "counter" (func $counter))
      (export "header" (func $header))))))
  (func (export "configure") (param "config" string) (result (result (error string)))
    (canon lift (core func $main "configure") (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))
  (func (export "self-test") (result (result (error string)))
    (canon lift (core func $main "self-test") (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))
  (func (export "members-changed") (param "members" $members)
    (canon lift (core func $main "members-changed") (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))
  (func (export "route") (param "message" $message) (result $verdict)
    (canon lift (core func $main "route") (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))
)"#;
