//! Every bound of the policy host, with what happens when it is reached. `docs/PLUGIN-REFERENCE.md` lists those that
//! a plugin's author meets; bounds of verdicts that the domain shares are in `waspmq_core::limits`.

/// Bytes of an uploaded component. Larger: `Unfit::TooLarge`. A component that brings the interpreter of its language has
/// some: CPython and its library 18 MiB, of which two thirds are memory that is not compiled. Compiling takes about a second
/// for each MiB of code, on a thread that gets what others leave.
pub const PLUGIN_BYTES_MAX: usize = 24 * 1024 * 1024;

/// Bytes of one function of a component: compiling takes longer than in proportion to it. Larger: `Unfit::FunctionTooLarge`.
pub const FUNCTION_BYTES_MAX: usize = 512 * 1024;

/// Plugins in one broker. More: `Unfit::TooManyPlugins`. Compiled code costs about three times the upload, for
/// each lane it may be called on.
pub const PLUGINS_MAX: usize = 64;

/// Revisions kept of one plugin. More: the oldest one that no policy uses is dropped; none: `Unfit::TooManyRevisions`.
pub const REVISIONS_KEPT: usize = 16;

/// Removed plugins whose numbers are remembered. More: the one that was removed first is forgotten, and counts from 1 if it comes
/// back.
pub const PLUGINS_REMOVED_MAX: usize = 256;

/// Bytes of all kept revisions of all plugins, on disk. More: `Unfit::TooManyBytes`.
pub const COMPONENTS_BYTES_MAX: usize = 1024 * 1024 * 1024;

/// Bytes of a plugin's or a policy's name.
pub const NAME_BYTES_MAX: usize = 64;

/// Policies that `HostOptions::policies_max` may ask for: a set of them is a 64-bit mask.
pub const POLICIES_MAX: usize = 64;

/// Patterns of one policy, and bytes of its configuration as JSON. More: `PutError::Invalid`.
pub const PATTERNS_MAX: usize = 64;
pub const CONFIG_BYTES_MAX: usize = 64 * 1024;

/// Rules of one policy, bytes of them as JSON, and patterns in all their conditions. More: `PutError::Invalid`. Together
/// they bound what a message that matches none of them costs.
pub const RULES_MAX: usize = 256;
pub const RULES_BYTES_MAX: usize = 64 * 1024;
pub const RULES_PATTERNS_MAX: usize = 1_024;

/// Headers that one rule looks at; bytes and stars of a pattern for texts. More: `PutError::Invalid`.
pub const RULE_HEADERS_MAX: usize = 16;
pub const GLOB_BYTES_MAX: usize = 256;
pub const GLOB_STARS_MAX: usize = 8;

/// Patterns with several stars that all rules of a policy have for headers: these search a value of up to 8 KiB, where all
/// others compare its ends. More: `PutError::Invalid`.
pub const RULES_SEARCHES_MAX: usize = 32;

/// The most that one question put to rules is charged for, far more than any takes: what is beyond is not the rules'.
pub const RULES_CHARGE_MS_MAX: u64 = 10;

/// Messages in a second, a minute or an hour, or at once, that a rule may allow. More: `PutError::Invalid`.
pub const RULE_RATE_MAX: u32 = 1_000_000;

/// What a document may ask for, and what it gets without asking.
pub const DEADLINE_MS_MIN: u32 = 2;
pub const DEADLINE_MS_MAX: u32 = 1_000;
pub const DEADLINE_MS_DEFAULT: u32 = 2;
pub const MEMORY_MB_MIN: u32 = 1;
pub const MEMORY_MB_MAX: u32 = 64;
pub const MEMORY_MB_DEFAULT: u32 = 16;

/// Elements of one table of a component; growth beyond is denied.
pub const TABLE_ELEMENTS_MAX: usize = 20_000;

/// Core instances that one component is made of, and its tables: as many are set aside for each instance. More: `Unfit::Invalid`.
pub const CORE_INSTANCES_MAX: usize = 64;
pub const TABLES_PER_COMPONENT: usize = 8;

/// CPU time of `configure` and `self-test` together, and of telling one instance all member changes.
/// Beyond: the instance is discarded.
pub const SETUP_DEADLINE_MS: u32 = 250;

/// One epoch, the unit in which running guests are checked.
pub const TICK_MS: u32 = 1;

/// Bytes one call may move from the guest to the host: beyond a verdict with 64 long addresses and all header
/// bytes there is nothing to say. More: the call fails.
pub const CALL_BYTES_MAX: usize = 256 * 1024;

/// Bytes of payload buffer an instance keeps between messages. A larger buffer is given back.
pub const PAYLOAD_KEPT_BYTES: usize = 64 * 1024;

/// Calls of the host in one call into a guest. More: left out and counted; they answer nothing.
pub const HOSTCALLS_MAX: u32 = 64;

/// Bytes of one log line (cut), and lines a second of one policy (dropped and counted).
pub const LOG_BYTES_MAX: usize = 1024;
pub const LOG_LINES_PER_SECOND: u32 = 10;

/// Seconds between two lines in the log about the same limit of the same policy. Sooner: it is only counted.
pub const EXCEEDED_LINE_S: u64 = 10;

/// Counters of one policy, and bytes of a counter's name. More: left out and counted.
pub const COUNTERS_MAX: usize = 32;
pub const COUNTER_NAME_BYTES_MAX: usize = 48;

/// Histograms of one policy; their names are as those of counters. More: left out and counted.
pub const HISTOGRAMS_MAX: usize = 8;

/// Bytes of the name of a value or a bucket, and of a value. More: refused.
pub const KEY_BYTES_MAX: usize = 128;
pub const VALUE_BYTES_MAX: usize = 4 * 1024;

/// Values of one policy, and bytes of them and their names. More: refused, unless some have ended.
pub const VALUES_MAX: usize = 4_096;
pub const VALUES_BYTES_MAX: usize = 1024 * 1024;

/// Token buckets of one policy. More: refused, unless some are full, which are forgotten.
pub const BUCKETS_MAX: usize = 1_024;

/// Addresses that one instance named and that are found without parsing them. More: the oldest is parsed anew.
pub const ADDRESSES_KNOWN: usize = 4;

/// Buckets that the rules of one policy count with, about 200 bytes each at most. More: as above. Where there is no room,
/// full ones are looked for at most this often, each time in an eighth of all.
pub const RULE_BUCKETS_MAX: usize = 65_536;
pub const BUCKETS_SWEEP_MS: u64 = 5;

/// Bytes of a drop reason. More: a bad verdict.
pub const DROP_REASON_BYTES_MAX: usize = 1024;

/// Bytes of the reason of a refusal. More: cut.
pub const REASON_BYTES_MAX: usize = 1024;

/// Shortest time between two replacements of one worker's instance of one policy, and the same as a multiple
/// of the policy's deadline; the longer one holds. So a policy whose every call runs into its deadline burns
/// at most one part in [`REPLACEMENT_DEADLINES`] of a worker.
pub const REPLACEMENT_INTERVAL_MS: u32 = 100;
pub const REPLACEMENT_DEADLINES: u32 = 50;

/// How long member changes are collected before instances are told.
pub const MEMBERS_DELAY_MS: u64 = 100;

/// Queues that policies are told about, and members in all of them. More: the queue is not told, counted.
pub const QUEUES_MAX: usize = 1_024;
pub const QUEUE_MEMBERS_TOTAL_MAX: usize = 16_384;

/// Queues that are gone and of which instances may not have heard. More: instances older than the forgotten
/// one are replaced instead of told.
pub const GONE_QUEUES_MAX: usize = 256;

/// Addresses one worker remembers the bound policies of. More: forgotten all at once.
pub const MATCH_CACHE_MAX: usize = 1_024;

/// Verdicts and choices of a codec one worker remembers because they hold for more than one message. More: forgotten all at once.
pub const DECISIONS_MAX: usize = 4_096;

/// Messages whose decisions one worker remembers, that at hand included. More: the oldest is forgotten.
pub const TRACES_MAX: usize = 8_192;

/// Decisions remembered of one message, those about its failed attempts included. More: counted.
pub const TRACE_DECISIONS_MAX: usize = 16;

/// Bytes of the addresses, reasons and headers in what is remembered of one message. More: cut, and `…truncated` says so.
pub const TRACE_TEXT_BYTES_MAX: usize = 512;

/// Failed calls among the last ones that open a breaker, and how many last ones.
pub const BREAKER_FAILURES: u32 = 5;
pub const BREAKER_RECENT_CALLS: u32 = 20;

/// How long a breaker stays open, and the calls that decide behind that.
pub const BREAKER_OPEN_MS: u64 = 1_000;
pub const BREAKER_TRIAL_CALLS: u32 = 5;

/// Of the calls of a version on a worker, one in this many is timed on average; the first ones, those behind a slow one
/// and those behind one during which a tick passed are timed one by one.
pub const TIMED_ONE_IN: u32 = 8;
pub const TIMED_AT_FIRST: u32 = 256;
pub const TIMED_AFTER_SLOW: u32 = 256;
pub const TIMED_AFTER_TICK: u32 = 16;

/// The time in which a policy may use its share of a worker. More: its breaker opens.
pub const BREAKER_WINDOW_MS: u64 = 100;

/// Part of a worker that a policy may use: what a document may ask for, and what it gets without asking.
pub const CPU_SHARE_MIN: f64 = 0.01;
pub const CPU_SHARE_MAX: f64 = 1.0;
pub const CPU_SHARE_DEFAULT: f64 = 0.2;

/// Messages a shadow decided differently that are kept to be shown. More: one in each interval replaces the oldest.
pub const DIFFERENCES_KEPT: usize = 32;
pub const DIFFERENCES_INTERVAL_MS: u64 = 1_000;

/// Samples of one worker whose messages wait for their ids. More: the oldest stays without.
pub const SAMPLES_UNNAMED_MAX: usize = 64;

/// When a new version is taken back: what a document gets without asking, and the most it may ask for.
pub const BUDGET_FAILURE_PERCENT_DEFAULT: u8 = 5;
pub const BUDGET_LATENCY_FACTOR_DEFAULT: u32 = 10;
pub const BUDGET_LATENCY_FACTOR_MAX: u32 = 1_000;
pub const BUDGET_CALLS_DEFAULT: u32 = 100;
pub const BUDGET_CALLS_MAX: u32 = 1_000_000;
pub const BUDGET_WINDOW_S_DEFAULT: u32 = 10;
pub const BUDGET_WINDOW_S_MAX: u32 = 300;

/// A version before that was faster than this counts as this fast, so that noise is no reason to go back.
pub const BUDGET_LATENCY_FLOOR_NS: u64 = 5_000;

/// Windows with enough calls after which a new version is no longer compared with the one before.
pub const PROBATION_WINDOWS: u32 = 6;

/// How often the policy thread compares versions.
pub const SUPERVISION_MS: u64 = 100;

/// Calls one instance serves, and how full its memory may get, in percent of its limit. More: it is replaced when a
/// spare is ready.
pub const INSTANCE_CALLS_MAX: u32 = 1_000_000;
pub const INSTANCE_MEMORY_PERCENT: usize = 80;

/// Instances of one policy that one worker and its policy thread have at most: the active version, a candidate and the
/// version before, each with a spare, and as many as those that an idle worker did not give back yet.
pub const INSTANCES_PER_POLICY: usize = 9;

/// Memory maps that one instance may take: the image its memory begins with, what it uses of the rest and what it does not
/// (four, with some to spare). And those that all else in the process has: threads, heaps, the store, code of revisions. With these
/// the host computes for how many policies the kernel allows enough maps; for none: it does not start.
pub const MAPS_PER_INSTANCE: usize = 6;
pub const MAPS_ELSEWHERE: usize = 8_192;

/// Discarded instances on their way to the policy thread. More: the worker frees one itself.
pub const RETIRED_MAX: usize = 256;

/// Times that a new instance is tried to be made while there is no room and discarded ones are freed. More: `NoCapacity`.
pub const ROOM_ATTEMPTS_MAX: u32 = 4;

/// What a capture takes down at most, members of queues not counted: what may be asked for, and what is taken without
/// asking. More: it ends.
pub const CAPTURE_MESSAGES_MAX: u64 = 100_000;
pub const CAPTURE_MESSAGES_DEFAULT: u64 = 10_000;

/// How long a capture takes: what may be asked for, and what it does without asking. Longer: it ends.
pub const CAPTURE_SECONDS_MAX: u64 = 3_600;
pub const CAPTURE_SECONDS_DEFAULT: u64 = 60;

/// Bytes of the lines of a capture; their buffers may have twice that. More: the capture ends.
pub const CAPTURE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// How long the records of a capture are kept behind its end. Longer: they are freed.
pub const CAPTURE_KEPT_S: u64 = 3_600;

/// Bytes of a payload that is taken down. More: the record has none, and says so.
pub const CAPTURE_PAYLOAD_BYTES_MAX: usize = 64 * 1024;

/// Bytes of one line of a capture. More: the record is left out and counted; a replay refuses the line.
pub const CAPTURE_LINE_BYTES_MAX: usize = 1024 * 1024;

/// Bytes from which lines of a worker are no longer moved, and from which a piece of a capture is handed out.
pub const CAPTURE_CHUNK_BYTES: usize = 256 * 1024;
pub const CAPTURE_PIECE_BYTES: usize = 64 * 1024;

/// Decisions that differ which a replay may be asked to show. More: only counted.
pub const REPLAY_DIFFERENCES_MAX: u64 = 100_000;

/// Set-ups in a row that fail for one hook in a replay, behind which questions are put to nobody. The next change of queue
/// members is one more try.
pub const REPLAY_SETUPS_MAX: u32 = 16;

/// Vectors of one file, and times that one is asked. More: the file is refused.
pub const VECTORS_MAX: usize = 10_000;
pub const VECTOR_REPEAT_MAX: u32 = 100_000;

/// Questions that one run of a bench measures. More: it does not begin.
pub const BENCH_QUESTIONS_MAX: usize = 64;
/// Rounds of a bench that may be asked for: it keeps what each of them measured.
pub const BENCH_ROUNDS_MAX: u32 = 10_000;

const _: () = assert!(
    (CAPTURE_PAYLOAD_BYTES_MAX + waspmq_core::limits::HEADER_BYTES_MAX) * 6 < CAPTURE_LINE_BYTES_MAX / 2,
    "a message with its payload and headers fits, however it is escaped"
);
const _: () = assert!(
    RULES_SEARCHES_MAX * waspmq_core::limits::HEADER_BYTES_MAX
        <= RULES_PATTERNS_MAX * waspmq_core::limits::KEY_BYTES_MAX,
    "headers cost no more to look through than partition keys"
);
const _: () = assert!(BREAKER_RECENT_CALLS < u32::BITS, "the last calls are bits of a word");
const _: () = assert!(BREAKER_FAILURES <= BREAKER_RECENT_CALLS, "so many failures can be among them");
const _: () = assert!(POLICIES_MAX <= u64::BITS as usize, "bound policies are a 64-bit mask");
const _: () = assert!(
    REPLACEMENT_INTERVAL_MS >= DEADLINE_MS_DEFAULT * REPLACEMENT_DEADLINES,
    "with the default deadline the interval alone keeps the share"
);
const _: () = assert!(
    waspmq_core::limits::FANOUT_MAX * (waspmq_core::limits::NAME_BYTES_MAX + 64)
        + waspmq_core::limits::HEADER_BYTES_MAX * 2
        + DROP_REASON_BYTES_MAX
        < CALL_BYTES_MAX,
    "every verdict that is allowed must fit"
);
