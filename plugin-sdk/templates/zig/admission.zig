//! Takes in so many messages a second of each sender.

const std = @import("std");
const wq = @import("waspmq.zig");

comptime {
    wq.exportAdmission(@This());
}

/// When to try again, for who was refused.
const retry_ms = 1_000;

var per_second: u32 = 10;
/// As many are taken in at once.
var burst: u32 = 20;

/// Null, or what is wrong.
pub fn configure(text: []const u8) ?[]const u8 {
    const config = wq.Config.parse(text) orelse return "the configuration cannot be read";
    const most = std.math.maxInt(u32);
    per_second = config.number(u32, "per_second", per_second, 1, most) orelse return "`per_second` must be a number, at least 1";
    burst = config.number(u32, "burst", burst, 1, most) orelse return "`burst` must be a number, at least 1";
    return null;
}

pub fn admit(message: wq.Message) wq.Admission {
    if (wq.take(print("from/{s}", .{message.sender}), 1, per_second, burst)) return .pass;
    wq.counter("refused", 1);
    return .{ .refuse = .{ .reason = print("more than {d} messages a second", .{per_second}), .retry_ms = retry_ms } };
}

fn print(comptime format: []const u8, arguments: anytype) []const u8 {
    return std.fmt.allocPrint(wq.allocator, format, arguments) catch @trap();
}
