//! Keeps what is urgent in the store for a recipient that does not keep up, and of topics the newest of each key.

const wq = @import("waspmq.zig");

comptime {
    wq.exportOverflow(@This());
}

/// The least priority that is urgent.
var urgent: u8 = 7;

/// Null, or what is wrong.
pub fn configure(text: []const u8) ?[]const u8 {
    const config = wq.Config.parse(text) orelse return "the configuration cannot be read";
    urgent = config.number(u8, "urgent", urgent, 0, 255) orelse return "`urgent` must be a number from 0 to 255";
    return null;
}

pub fn overflow(what: wq.Overflowing) wq.Action {
    if (what.priority >= urgent) {
        wq.counter("spilled", 1);
        return .spill;
    }
    return if (what.kind == .topic) .conflate else .pass;
}
