//! Has urgent messages delivered in several attempts, and waits for who is offline.

const wq = @import("waspmq.zig");

comptime {
    wq.exportAck(@This());
}

/// How long somebody who is offline is waited for until the broker looks again.
const offline_ms = 60_000;

/// The least priority that is urgent.
var urgent: u8 = 7;
var attempts: u16 = 5;
var timeout_ms: u32 = 2_000;

/// Null, or what is wrong.
pub fn configure(text: []const u8) ?[]const u8 {
    const config = wq.Config.parse(text) orelse return "the configuration cannot be read";
    urgent = config.number(u8, "urgent", urgent, 0, 255) orelse return "`urgent` must be a number from 0 to 255";
    attempts = config.number(u16, "attempts", attempts, 1, 1_000) orelse return "`attempts` must be a number from 1 to 1000";
    timeout_ms = config.number(u32, "timeout_ms", timeout_ms, 1, 86_400_000) orelse return "`timeout_ms` must be a number from 1 to 86400000";
    return null;
}

/// Null leaves it to the next policy.
pub fn plan(message: wq.Message, configured: wq.AckPlan) ?wq.AckPlan {
    if (message.priority < urgent) return null;
    wq.counter("urgent", 1);
    var planned = configured;
    planned.level = .delivered;
    planned.attempts = attempts;
    planned.timeout_ms = timeout_ms;
    return planned;
}

pub fn failed(failure: wq.Failure) wq.Decision {
    return switch (failure.cause) {
        .offline => .{ .wait = offline_ms },
        .nack => if (failure.retry_ms) |ms| .{ .retry = ms } else .pass,
        else => .pass,
    };
}
