//! The contract with the broker, wit/policy.wit, for Zig: what policies are told and answer, what they may ask, and the exports
//! that call a policy. Not here: what is decided.
//!
//! Memory: `allocator` lives until the end of the call, and so do all texts that a function is given; `forever` lives as long as
//! the instance. Nothing of `allocator` has to be freed.

const std = @import("std");

var arena = std.heap.ArenaAllocator.init(std.heap.wasm_allocator);
/// For one call.
pub const allocator = arena.allocator();
/// For what stays, such as the configuration.
pub const forever = std.heap.wasm_allocator;

/// Bytes that are kept for the next call; what a call took beyond is given back.
const kept_bytes = 64 * 1024;

fn callIsOver() void {
    _ = arena.reset(.{ .retain_with_limit = kept_bytes });
}

/// Where a text or a value lies. What is empty may point nowhere, and the contract asks for a place in memory all the same.
fn place(bytes: []const u8) [*]const u8 {
    return if (bytes.len == 0) "" else bytes.ptr;
}

/// A text as the contract lays it out.
const Text = extern struct {
    ptr: [*]const u8,
    len: usize,
    fn of(text: []const u8) Text {
        return .{ .ptr = place(text), .len = text.len };
    }
    fn slice(text: Text) []const u8 {
        return text.ptr[0..text.len];
    }
};
const Pair = extern struct { name: Text, value: Text };

/// A list of a length, in memory also when it is empty.
fn list(comptime T: type, len: usize) []T {
    const room = allocator.alloc(T, @max(len, 1)) catch @trap();
    return room[0..len];
}

fn realloc(old: [*]u8, old_len: usize, alignment: usize, len: usize) callconv(.c) [*]u8 {
    const log2: std.mem.Alignment = @enumFromInt(std.math.log2_int(usize, alignment));
    const block = allocator.rawAlloc(@max(len, 1), log2, @returnAddress()) orelse @trap();
    @memcpy(block[0..@min(old_len, len)], old[0..@min(old_len, len)]);
    return block;
}

pub const Kind = enum(u8) { user, group, topic, all };

pub const Message = struct {
    sender: []const u8,
    address: []const u8,
    kind: Kind,
    /// Empty: there is none.
    key: []const u8,
    /// Bytes of the payload.
    size: u32,
    priority: u8,
    /// Milliseconds since 1970.
    ts: u64,
};

pub const Header = struct { name: []const u8, value: []const u8 };

// ---- what may be asked of the broker ----

const import = struct {
    extern "waspmq:policy/host@0.1.0" fn log(level: u32, ptr: [*]const u8, len: usize) void;
    extern "waspmq:policy/host@0.1.0" fn counter(ptr: [*]const u8, len: usize, delta: u64) void;
    extern "waspmq:policy/host@0.1.0" fn histogram(ptr: [*]const u8, len: usize, value: u64) void;
    extern "waspmq:policy/host@0.1.0" fn header(ptr: [*]const u8, len: usize, to: *Option) void;
    extern "waspmq:policy/host@0.1.0" fn headers(to: *Pairs) void;
    extern "waspmq:policy/host@0.1.0" fn payload(to: *Text) void;
    extern "waspmq:policy/host@0.1.0" fn @"kv-get"(ptr: [*]const u8, len: usize, to: *Option) void;
    extern "waspmq:policy/host@0.1.0" fn @"kv-set"(ptr: [*]const u8, len: usize, value: [*]const u8, bytes: usize, ttl_ms: u64) u32;
    extern "waspmq:policy/host@0.1.0" fn @"kv-delete"(ptr: [*]const u8, len: usize) void;
    extern "waspmq:policy/host@0.1.0" fn @"kv-compare-and-set"(ptr: [*]const u8, len: usize, is_some: u32, expected: [*]const u8, expected_bytes: usize, value: [*]const u8, bytes: usize, ttl_ms: u64) u32;
    extern "waspmq:policy/host@0.1.0" fn @"kv-add"(ptr: [*]const u8, len: usize, delta: i64, ttl_ms: u64, to: *OptionNumber) void;
    extern "waspmq:policy/host@0.1.0" fn take(ptr: [*]const u8, len: usize, amount: u32, per_second: u32, burst: u32) u32;
    extern "waspmq:policy/host@0.1.0" fn @"in-flight"(version: u64, to: *Numbers) void;
    extern "waspmq:policy/host@0.1.0" fn now() u64;
    extern "waspmq:policy/host@0.1.0" fn random() u64;
    extern "waspmq:policy/host@0.1.0" fn @"is-online"(ptr: [*]const u8, len: usize) u32;
    extern "waspmq:policy/host@0.1.0" fn @"group-size"(ptr: [*]const u8, len: usize) u32;
};
const Option = extern struct {
    is_some: bool,
    value: Text,
    fn get(option: Option) ?[]const u8 {
        return if (option.is_some) option.value.slice() else null;
    }
};
const OptionNumber = extern struct { is_some: bool, value: i64 };
const Numbers = extern struct { ptr: [*]const u32, len: usize };
const Pairs = extern struct { ptr: [*]const Pair, len: usize };

pub const Level = enum(u32) { debug, info, warn, err };

pub fn log(level: Level, text: []const u8) void {
    import.log(@intFromEnum(level), place(text), text.len);
}
pub fn counter(name: []const u8, delta: u64) void {
    import.counter(place(name), name.len, delta);
}
pub fn histogram(name: []const u8, value: u64) void {
    import.histogram(place(name), name.len, value);
}
/// The value of one header of the message under decision.
pub fn header(name: []const u8) ?[]const u8 {
    var found: Option = undefined;
    import.header(place(name), name.len, &found);
    return found.get();
}
pub fn headers() []const Header {
    var all: Pairs = undefined;
    import.headers(&all);
    const found = list(Header, all.len);
    for (found, all.ptr[0..all.len]) |*to, pair| to.* = .{ .name = pair.name.slice(), .value = pair.value.slice() };
    return found;
}
pub fn payload() []const u8 {
    var bytes: Text = undefined;
    import.payload(&bytes);
    return bytes.slice();
}
pub fn kvGet(key: []const u8) ?[]const u8 {
    var found: Option = undefined;
    import.@"kv-get"(place(key), key.len, &found);
    return found.get();
}
pub fn kvSet(key: []const u8, value: []const u8, ttl_ms: u64) bool {
    return import.@"kv-set"(place(key), key.len, place(value), value.len, ttl_ms) != 0;
}
pub fn kvDelete(key: []const u8) void {
    import.@"kv-delete"(place(key), key.len);
}
pub fn kvCompareAndSet(key: []const u8, expected: ?[]const u8, value: []const u8, ttl_ms: u64) bool {
    const known = expected orelse "";
    return import.@"kv-compare-and-set"(place(key), key.len, @intFromBool(expected != null), place(known), known.len, place(value), value.len, ttl_ms) != 0;
}
pub fn kvAdd(key: []const u8, delta: i64, ttl_ms: u64) ?i64 {
    var sum: OptionNumber = undefined;
    import.@"kv-add"(place(key), key.len, delta, ttl_ms, &sum);
    return if (sum.is_some) sum.value else null;
}
pub fn take(bucket: []const u8, amount: u32, per_second: u32, burst: u32) bool {
    return import.take(place(bucket), bucket.len, amount, per_second, burst) != 0;
}
/// Milliseconds since 1970.
pub fn now() u64 {
    return import.now();
}
pub fn random() u64 {
    return import.random();
}
pub fn isOnline(user: []const u8) bool {
    return import.@"is-online"(place(user), user.len) != 0;
}
/// What each member of the queue with this version of members has in flight; none when the version is not current.
pub fn inFlight(version: u64) []const u32 {
    var numbers: Numbers = undefined;
    import.@"in-flight"(version, &numbers);
    return numbers.ptr[0..numbers.len];
}
pub fn groupSize(group: []const u8) u32 {
    return import.@"group-size"(place(group), group.len);
}

// ---- a configuration: one JSON object of texts and numbers ----

pub const Config = struct {
    members: std.json.ObjectMap,

    /// Of `forever`: texts of it may be kept.
    pub fn parse(text: []const u8) ?Config {
        const kept = forever.dupe(u8, text) catch return null;
        const value = std.json.parseFromSliceLeaky(std.json.Value, forever, kept, .{}) catch return null;
        return if (value == .object) .{ .members = value.object } else null;
    }
    pub fn string(config: Config, name: []const u8) ?[]const u8 {
        const value = config.members.get(name) orelse return null;
        return if (value == .string) value.string else null;
    }
    /// The default where there is none, null where it is no whole number within the bounds.
    pub fn number(config: Config, comptime T: type, name: []const u8, default: T, least: T, most: T) ?T {
        const value = config.members.get(name) orelse return default;
        if (value != .integer or value.integer < least or value.integer > most) return null;
        return @intCast(value.integer);
    }
};

// ---- the exports: what the broker calls ----

const Said = extern struct { is_error: bool = false, reason: Text = .{ .ptr = "", .len = 0 } };
var said: Said = .{};

fn answered(_: *anyopaque) callconv(.c) void {
    callIsOver();
}

fn exportLifecycle(comptime policy: type) void {
    const exports = struct {
        fn configure(ptr: [*]const u8, len: usize) callconv(.c) *const Said {
            const wrong: ?[]const u8 = policy.configure(ptr[0..len]);
            said = if (wrong) |reason| .{ .is_error = true, .reason = .of(reason) } else .{};
            return &said;
        }
        fn selfTest() callconv(.c) *const Said {
            said = .{};
            return &said;
        }
    };
    @export(&realloc, .{ .name = "cabi_realloc" });
    @export(&exports.configure, .{ .name = "configure" });
    @export(&exports.selfTest, .{ .name = "self-test" });
    @export(&answered, .{ .name = "cabi_post_configure" });
    @export(&answered, .{ .name = "cabi_post_self-test" });
}

/// The members of one queue; none: it is gone.
pub const QueueMembers = struct { pattern: []const u8, queue: []const u8, version: u64, members: []const []const u8 };

pub const Cache = enum(u8) { never, address, connection };

pub const Verdict = struct {
    route: union(enum) {
        /// Ask the next policy; behind the last one, deliver as addressed.
        pass,
        /// Deliver as addressed and ask no further policy.
        deliver,
        redirect: []const u8,
        fan_out: []const []const u8,
        pick: struct { version: u64, index: u32 },
        /// Deliver to nobody and tell the publisher why.
        drop: []const u8,
    },
    set_headers: []const Header = &.{},
    cache: Cache = .never,
};

const RawVerdict = extern struct {
    tag: u8,
    payload: extern union {
        text: Text,
        texts: extern struct { ptr: [*]const Text, len: usize },
        pick: extern struct { version: u64, index: u32 },
    },
    set_headers: Pairs,
    cache: u8,

    fn of(verdict: Verdict) RawVerdict {
        const pairs = list(Pair, verdict.set_headers.len);
        for (pairs, verdict.set_headers) |*to, from| to.* = .{ .name = .of(from.name), .value = .of(from.value) };
        return .{
            .tag = @intFromEnum(verdict.route),
            .payload = switch (verdict.route) {
                .pass, .deliver => .{ .pick = .{ .version = 0, .index = 0 } },
                .redirect, .drop => |text| .{ .text = .of(text) },
                .pick => |pick| .{ .pick = .{ .version = pick.version, .index = pick.index } },
                .fan_out => |all| texts: {
                    const addresses = list(Text, all.len);
                    for (addresses, all) |*to, text| to.* = .of(text);
                    break :texts .{ .texts = .{ .ptr = addresses.ptr, .len = addresses.len } };
                },
            },
            .set_headers = .{ .ptr = pairs.ptr, .len = pairs.len },
            .cache = @intFromEnum(verdict.cache),
        };
    }
};

/// The policy has `configure`, `route` and `membersChanged`.
pub fn exportRouting(comptime policy: type) void {
    const exports = struct {
        var decided: RawVerdict = undefined;
        fn route(sender: [*]const u8, sender_len: usize, address: [*]const u8, address_len: usize, kind: u32, key: [*]const u8, key_len: usize, size: u32, priority: u32, ts: u64) callconv(.c) *const RawVerdict {
            decided = .of(policy.route(.{
                .sender = sender[0..sender_len],
                .address = address[0..address_len],
                .kind = @enumFromInt(kind),
                .key = key[0..key_len],
                .size = size,
                .priority = @intCast(priority),
                .ts = ts,
            }));
            return &decided;
        }
        fn membersChanged(pattern: [*]const u8, pattern_len: usize, queue: [*]const u8, queue_len: usize, version: u64, members: [*]const Text, count: usize) callconv(.c) void {
            const names = list([]const u8, count);
            for (names, members[0..count]) |*to, text| to.* = text.slice();
            policy.membersChanged(.{ .pattern = pattern[0..pattern_len], .queue = queue[0..queue_len], .version = version, .members = names });
            callIsOver();
        }
    };
    exportLifecycle(policy);
    @export(&exports.route, .{ .name = "route" });
    @export(&answered, .{ .name = "cabi_post_route" });
    @export(&exports.membersChanged, .{ .name = "members-changed" });
}

pub const AckLevel = enum(u8) { none, accepted, stored, delivered };
pub const Quorum = extern struct {
    pub const What = enum(u8) { any, count, all };
    what: What,
    /// With `count`.
    count: u32,
};
pub const Exhausted = enum(u8) { dead_letter, drop };

/// How a message is acknowledged and retried; laid out as the contract has it.
pub const AckPlan = extern struct {
    level: AckLevel,
    quorum: Quorum,
    timeout_ms: u32,
    attempts: u16,
    initial_ms: u32,
    max_ms: u32,
    jitter_percent: u8,
    exhausted: Exhausted,
};

pub const Cause = enum(u8) { timeout, nack, queue_full, offline, connection_lost };

/// An attempt that failed.
pub const Failure = struct {
    address: []const u8,
    sender: []const u8,
    recipient: []const u8,
    cause: Cause,
    attempt: u16,
    messages: u16,
    waited_ms: u64,
    /// The wait that the recipient asked for.
    retry_ms: ?u32,
    attempts: u16,
    random: u64,
};

pub const Decision = union(enum) {
    /// Ask the next policy; behind the last one, do as the plan says.
    pass,
    retry: u32,
    /// Deliver as soon as the recipient is there; look again after so many milliseconds.
    wait: u32,
    give_up,
};

/// The policy has `configure`, `plan` and `failed`.
pub fn exportAck(comptime policy: type) void {
    const exports = struct {
        const RawMessage = extern struct { sender: Text, address: Text, kind: u8, key: Text, size: u32, priority: u8, ts: u64 };
        const Asked = extern struct { message: RawMessage, configured: AckPlan };
        const Planned = extern struct { is_some: bool, plan: AckPlan };
        const Decided = extern struct { tag: u8, ms: u32 };
        comptime {
            std.debug.assert(@sizeOf(Asked) == 80 and @sizeOf(Planned) == 36);
        }
        var planned: Planned = undefined;
        var decided: Decided = undefined;
        fn plan(asked: *const Asked) callconv(.c) *const Planned {
            const message = asked.message;
            const answer: ?AckPlan = policy.plan(.{
                .sender = message.sender.slice(),
                .address = message.address.slice(),
                .kind = @enumFromInt(message.kind),
                .key = message.key.slice(),
                .size = message.size,
                .priority = message.priority,
                .ts = message.ts,
            }, asked.configured);
            planned = .{ .is_some = answer != null, .plan = answer orelse asked.configured };
            return &planned;
        }
        fn failed(address: [*]const u8, address_len: usize, sender: [*]const u8, sender_len: usize, recipient: [*]const u8, recipient_len: usize, cause: u32, attempt: u32, messages: u32, waited_ms: u64, has_retry: u32, retry_ms: u32, attempts: u32, number: u64) callconv(.c) *const Decided {
            const decision: Decision = policy.failed(.{
                .address = address[0..address_len],
                .sender = sender[0..sender_len],
                .recipient = recipient[0..recipient_len],
                .cause = @enumFromInt(cause),
                .attempt = @intCast(attempt),
                .messages = @intCast(messages),
                .waited_ms = waited_ms,
                .retry_ms = if (has_retry != 0) retry_ms else null,
                .attempts = @intCast(attempts),
                .random = number,
            });
            decided = .{ .tag = @intFromEnum(decision), .ms = switch (decision) {
                .retry, .wait => |ms| ms,
                .pass, .give_up => 0,
            } };
            return &decided;
        }
    };
    exportLifecycle(policy);
    @export(&exports.plan, .{ .name = "plan" });
    @export(&answered, .{ .name = "cabi_post_plan" });
    @export(&exports.failed, .{ .name = "failed" });
    @export(&answered, .{ .name = "cabi_post_failed" });
}

pub const Admission = union(enum) {
    /// Ask the next policy; behind the last one, take the message in.
    pass,
    /// Take it in and ask no further policy.
    accept,
    /// Tell the publisher why, and when to try again; 0: never.
    refuse: struct { reason: []const u8, retry_ms: u32 },
};

/// The policy has `configure` and `admit`.
pub fn exportAdmission(comptime policy: type) void {
    const exports = struct {
        const Decided = extern struct { tag: u8, reason: Text, retry_ms: u32 };
        var decided: Decided = undefined;
        fn admit(sender: [*]const u8, sender_len: usize, address: [*]const u8, address_len: usize, kind: u32, key: [*]const u8, key_len: usize, size: u32, priority: u32, ts: u64) callconv(.c) *const Decided {
            const answer: Admission = policy.admit(.{
                .sender = sender[0..sender_len],
                .address = address[0..address_len],
                .kind = @enumFromInt(kind),
                .key = key[0..key_len],
                .size = size,
                .priority = @intCast(priority),
                .ts = ts,
            });
            decided = switch (answer) {
                .refuse => |refusal| .{ .tag = 2, .reason = .of(refusal.reason), .retry_ms = refusal.retry_ms },
                else => .{ .tag = @intFromEnum(answer), .reason = .of(""), .retry_ms = 0 },
            };
            return &decided;
        }
    };
    exportLifecycle(policy);
    @export(&exports.admit, .{ .name = "admit" });
    @export(&answered, .{ .name = "cabi_post_admit" });
}

pub const Action = enum(u8) {
    /// Ask the next policy; behind the last one, do as configured.
    pass,
    drop_oldest,
    drop_newest,
    conflate,
    spill,
    close,
};

/// Messages that do not fit one recipient's queue.
pub const Overflowing = struct {
    address: []const u8,
    /// `user/device/session` of the connection.
    recipient: []const u8,
    kind: Kind,
    priority: u8,
    size: u32,
    queued_bytes: u32,
    queued_bytes_max: u32,
    /// What the configuration asks for.
    configured: Action,
};

/// The policy has `configure` and `overflow`.
pub fn exportOverflow(comptime policy: type) void {
    const exports = struct {
        fn overflow(address: [*]const u8, address_len: usize, recipient: [*]const u8, recipient_len: usize, kind: u32, priority: u32, size: u32, queued_bytes: u32, queued_bytes_max: u32, configured: u32) callconv(.c) u32 {
            const action: Action = policy.overflow(.{
                .address = address[0..address_len],
                .recipient = recipient[0..recipient_len],
                .kind = @enumFromInt(kind),
                .priority = @intCast(priority),
                .size = size,
                .queued_bytes = queued_bytes,
                .queued_bytes_max = queued_bytes_max,
                .configured = @enumFromInt(configured),
            });
            callIsOver();
            return @intFromEnum(action);
        }
    };
    exportLifecycle(policy);
    @export(&exports.overflow, .{ .name = "overflow" });
}
