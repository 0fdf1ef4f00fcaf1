//! Sends messages on by the value of one header, and drops those that are too large.

const std = @import("std");
const wq = @import("waspmq.zig");

comptime {
    wq.exportRouting(@This());
}

/// The header that is looked at.
var header: []const u8 = "";
/// What the header's value is put behind.
var to: []const u8 = "";
/// Bytes of the largest payload.
var bytes_max: u32 = 65_536;

/// Null, or what is wrong.
pub fn configure(text: []const u8) ?[]const u8 {
    const config = wq.Config.parse(text) orelse return "the configuration cannot be read";
    header = config.string("header") orelse return "`header` must be a text";
    to = config.string("to") orelse return "`to` must be a text";
    bytes_max = config.number(u32, "bytes_max", bytes_max, 0, std.math.maxInt(u32)) orelse return "`bytes_max` must be a number";
    return null;
}

pub fn route(message: wq.Message) wq.Verdict {
    if (message.size > bytes_max) {
        return .{ .route = .{ .drop = print("more than {d} bytes", .{bytes_max}) } };
    }
    const value = wq.header(header) orelse "";
    if (value.len > 0) {
        wq.counter("sent_on", 1);
        return .{ .route = .{ .redirect = print("{s}{s}", .{ to, value }) } };
    }
    return .{ .route = .pass, .set_headers = &.{.{ .name = "checked", .value = "yes" }} };
}

/// This policy chooses no member of a queue.
pub fn membersChanged(_: wq.QueueMembers) void {}

fn print(comptime format: []const u8, arguments: anytype) []const u8 {
    return std.fmt.allocPrint(wq.allocator, format, arguments) catch @trap();
}
