//! Components for tests of the hooks beside routing, as text, with function bodies that can be replaced.

/// A component with the hooks `ack`, `admission`, `overflow` and `compression`. Each body answers in its own way:
///
/// | body | answer |
/// | --- | --- |
/// | `plan` | a pointer to an option of 36 bytes: whether there is one at 0, level at 4, quorum at 8 and 12, timeout at 16, attempts at 20, waits at 24 and 28, jitter at 32, exhausted at 33 |
/// | `failed` | a pointer to a decision of 8 bytes: case at 0, milliseconds at 4 |
/// | `admit` | a pointer to an admission of 16 bytes: case at 0, reason at 4 and 8, milliseconds at 12 |
/// | `overflow` | the action itself |
/// | `choose` | a pointer to a choice of 16 bytes: case at 0, level or name (pointer, bytes) at 4, cache at 12 |
///
/// Memory below 4096 belongs to the bodies, 1024 is zero. `$deep` calls itself, `$count` calls the broker once.
#[derive(Clone)]
pub(crate) struct Deciding {
    pub(crate) data: String,
    pub(crate) plan: String,
    pub(crate) failed: String,
    pub(crate) admit: String,
    pub(crate) overflow: String,
    pub(crate) choose: String,
}

impl Default for Deciding {
    /// Leaves everything to the next policy.
    fn default() -> Self {
        let nothing = "(i32.const 1024)".to_owned();
        Self {
            data: String::new(),
            plan: nothing.clone(),
            failed: nothing.clone(),
            admit: nothing.clone(),
            overflow: "(i32.const 0)".to_owned(),
            choose: nothing,
        }
    }
}

impl Deciding {
    pub(crate) fn build(&self) -> Vec<u8> {
        let text = TEMPLATE
            .replace("@data", &self.data)
            .replace("@plan", &self.plan)
            .replace("@failed", &self.failed)
            .replace("@admit", &self.admit)
            .replace("@overflow", &self.overflow)
            .replace("@choose", &self.choose);
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
    (type $level-of (enum "none" "accepted" "stored" "delivered"))
    (export "level" (type $level (eq $level-of)))
    (type $quorum-of (variant (case "any") (case "count" u32) (case "all")))
    (export "quorum" (type $quorum (eq $quorum-of)))
    (type $exhausted-of (enum "dead-letter" "drop"))
    (export "exhausted" (type $exhausted (eq $exhausted-of)))
    (type $plan-of (record (field "level" $level) (field "quorum" $quorum) (field "timeout-ms" u32)
      (field "attempts" u16) (field "initial-ms" u32) (field "max-ms" u32) (field "jitter-percent" u8)
      (field "exhausted" $exhausted)))
    (export "ack-plan" (type (eq $plan-of)))
    (type $cause-of (enum "timeout" "nack" "queue-full" "offline" "connection-lost"))
    (export "cause" (type $cause (eq $cause-of)))
    (type $failure-of (record (field "address" string) (field "sender" string) (field "recipient" string)
      (field "cause" $cause) (field "attempt" u16) (field "messages" u16) (field "waited-ms" u64)
      (field "retry-ms" (option u32)) (field "attempts" u16) (field "random" u64)))
    (export "failure" (type (eq $failure-of)))
    (type $decision-of (variant (case "continue") (case "retry" u32) (case "wait" u32) (case "give-up")))
    (export "decision" (type (eq $decision-of)))
    (type $refusal-of (record (field "reason" string) (field "retry-ms" u32)))
    (export "refusal" (type $refusal (eq $refusal-of)))
    (type $admission-of (variant (case "continue") (case "accept") (case "refuse" $refusal)))
    (export "admission" (type (eq $admission-of)))
    (type $action-of (enum "continue" "drop-oldest" "drop-newest" "conflate" "spill" "close"))
    (export "action" (type $action (eq $action-of)))
    (type $overflowing-of (record (field "address" string) (field "recipient" string) (field "kind" $kind)
      (field "priority" u8) (field "size" u32) (field "queued-bytes" u32) (field "queued-bytes-max" u32)
      (field "configured" $action)))
    (export "overflowing" (type (eq $overflowing-of)))
    (type $codecs-of (flags "lz4" "zstd" "zstd-dictionary" "deflate"))
    (export "codecs" (type $codecs (eq $codecs-of)))
    (type $audience-of (record (field "codecs" $codecs) (field "dictionary" bool)))
    (export "audience" (type (eq $audience-of)))
    (type $codec-of (variant (case "continue") (case "none") (case "lz4") (case "zstd" s8)
      (case "zstd-dictionary" string) (case "deflate" u8)))
    (export "codec" (type $codec (eq $codec-of)))
    (type $cache-of (enum "never" "address" "connection"))
    (export "cache" (type $cache (eq $cache-of)))
    (type $choice-of (record (field "codec" $codec) (field "cache" $cache)))
    (export "choice" (type (eq $choice-of)))))
  (alias export $types "message" (type $message))
  (alias export $types "ack-plan" (type $ack-plan))
  (alias export $types "failure" (type $failure))
  (alias export $types "decision" (type $decision))
  (alias export $types "admission" (type $admission))
  (alias export $types "action" (type $action))
  (alias export $types "overflowing" (type $overflowing))
  (alias export $types "audience" (type $audience))
  (alias export $types "choice" (type $choice))
  (import "waspmq:policy/host@0.1.0" (instance $host
    (export "counter" (func (param "name" string) (param "delta" u64)))))

  (core module $libc
    (memory (export "memory") 2)
    (global $heap (mut i32) (i32.const 4096))
    (func (export "free-all") (global.set $heap (i32.const 4096)))
    (func (export "realloc") (param $old i32) (param $old_len i32) (param $align i32) (param $len i32) (result i32)
      (local $at i32)
      (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))
      (global.set $heap (i32.add (local.get $at) (local.get $len)))
      (if (i32.gt_u (global.get $heap) (i32.shl (memory.size) (i32.const 16))) (then unreachable))
      (local.get $at)))
  (core instance $libc (instantiate $libc))
  (core func $counter (canon lower (func $host "counter") (memory (core memory $libc "memory"))))
  (core module $main
    (import "libc" "memory" (memory 1))
    (import "libc" "free-all" (func $free-all))
    (import "host" "counter" (func $counter (param i32 i32 i64)))
    (data (i32.const 512) "calls")
    @data
    (func $deep (param i32) (result i32) (i32.add (call $deep (i32.add (local.get 0) (i32.const 1))) (i32.const 1)))
    (func $count (call $counter (i32.const 512) (i32.const 5) (i64.const 1)))
    (func (export "configure") (param i32 i32) (result i32) (call $free-all) (i32.const 1024))
    (func (export "self-test") (result i32) (i32.const 1024))
    (func (export "plan") (param i32) (result i32) (local $i i32) (call $free-all) @plan)
    (func (export "failed") (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i64 i32 i32 i32 i64) (result i32)
      (local $i i32) (call $free-all) @failed)
    (func (export "admit") (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i64) (result i32)
      (local $i i32) (call $free-all) @admit)
    (func (export "overflow") (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
      (local $i i32) (call $free-all) @overflow)
    (func (export "choose") (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i64 i32 i32) (result i32)
      (local $i i32) (call $free-all) @choose))
  (core instance $main (instantiate $main
    (with "libc" (instance $libc))
    (with "host" (instance (export "counter" (func $counter))))))
  (func (export "configure") (param "config" string) (result (result (error string)))
    (canon lift (core func $main "configure") (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))
  (func (export "self-test") (result (result (error string)))
    (canon lift (core func $main "self-test") (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))
  (func (export "plan") (param "message" $message) (param "configured" $ack-plan) (result (option $ack-plan))
    (canon lift (core func $main "plan") (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))
  (func (export "failed") (param "failure" $failure) (result $decision)
    (canon lift (core func $main "failed") (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))
  (func (export "admit") (param "message" $message) (result $admission)
    (canon lift (core func $main "admit") (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))
  (func (export "overflow") (param "what" $overflowing) (result $action)
    (canon lift (core func $main "overflow") (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))
  (func (export "choose") (param "message" $message) (param "audience" $audience) (result $choice)
    (canon lift (core func $main "choose") (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))
)"#;
