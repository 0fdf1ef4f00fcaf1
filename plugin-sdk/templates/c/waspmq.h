/* The contract with the broker, wit/policy.wit, for C.
 *
 * Include it once, with the hook of the policy defined before: WQ_ROUTING, WQ_ACK, WQ_ADMISSION or WQ_OVERFLOW. Then write
 * wq_configure and the functions of the hook, which are declared below. The structures are laid out as the component
 * model's canonical ABI asks for, so nothing is converted.
 *
 * Memory: there is no C library and no malloc. wq_alloc gives memory that lives until the end of the call, or of the
 * instance when it is asked for in wq_configure; so do the texts that a function is given. Nothing is freed by hand. What
 * has to stay from one call to the next is kept in static variables or with the broker (wq_kv_set).
 */
#ifndef WASPMQ_H
#define WASPMQ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Text is UTF-8 and does not end with a zero byte. */
typedef struct { const char *ptr; uint32_t len; } wq_string;
typedef struct { const wq_string *ptr; uint32_t len; } wq_strings;
typedef struct { const uint8_t *ptr; uint32_t len; } wq_bytes;
typedef struct { const uint32_t *ptr; uint32_t len; } wq_numbers;
typedef struct { wq_string name, value; } wq_header_pair;
typedef struct { const wq_header_pair *ptr; uint32_t len; } wq_header_list;

/* A text in quotes as a wq_string. */
#define WQ(text) ((wq_string){ (text), sizeof(text) - 1 })

typedef enum { WQ_USER, WQ_GROUP, WQ_TOPIC, WQ_ALL } wq_kind;
typedef enum { WQ_DEBUG, WQ_INFO, WQ_WARN, WQ_ERROR } wq_log_level;

typedef struct {
  wq_string sender, address;
  uint8_t kind; /* wq_kind */
  wq_string key; /* empty: none */
  uint32_t size;
  uint8_t priority;
  uint64_t ts; /* milliseconds since 1970 */
} wq_message;

/* What configuring says: no text, or what is wrong. */
typedef struct { bool is_error; wq_string reason; } wq_result;
static inline wq_result wq_ok(void) { return (wq_result){ false, { NULL, 0 } }; }
static inline wq_result wq_error(wq_string reason) { return (wq_result){ true, reason }; }

/* Written by the policy: reads the configuration, one JSON object. */
wq_result wq_configure(wq_string config);

/* ---- memory and text ---- */

extern unsigned char __heap_base;
static uintptr_t wq_floor, wq_top;

static inline void *wq_aligned(uint32_t align, uint32_t bytes) {
  if (wq_top == 0) wq_floor = wq_top = (uintptr_t)&__heap_base;
  uintptr_t start = (wq_top + align - 1) & ~(uintptr_t)(align - 1);
  uintptr_t end = start + bytes;
  uintptr_t have = (uintptr_t)__builtin_wasm_memory_size(0) << 16;
  if (end < start) __builtin_trap();
  if (end > have && __builtin_wasm_memory_grow(0, (end - have + 0xffff) >> 16) == (size_t)-1) __builtin_trap();
  wq_top = end;
  return (void *)start;
}
static inline void *wq_alloc(uint32_t bytes) { return wq_aligned(8, bytes); }

void *memcpy(void *restrict to, const void *restrict from, size_t bytes);
int memcmp(const void *a, const void *b, size_t bytes);

static inline bool wq_equal(wq_string a, wq_string b) {
  return a.len == b.len && memcmp(a.ptr, b.ptr, a.len) == 0;
}
static inline wq_string wq_concat(wq_string a, wq_string b) {
  char *text = wq_alloc(a.len + b.len);
  memcpy(text, a.ptr, a.len);
  memcpy(text + a.len, b.ptr, b.len);
  return (wq_string){ text, a.len + b.len };
}
static inline wq_string wq_number(uint64_t number) {
  char *text = wq_alloc(20);
  uint32_t at = 20;
  do text[--at] = (char)('0' + number % 10); while (number /= 10);
  return (wq_string){ text + at, 20 - at };
}

/* Called by the broker for every text it passes. */
__attribute__((export_name("cabi_realloc")))
void *wq_realloc(void *old, uint32_t old_bytes, uint32_t align, uint32_t bytes) {
  void *block = wq_aligned(align, bytes);
  if (old_bytes != 0) memcpy(block, old, old_bytes < bytes ? old_bytes : bytes);
  return block;
}
static inline void wq_call_is_over(void) { if (wq_top != 0) wq_top = wq_floor; }

/* ---- what may be asked of the broker ---- */

#define WQ_IMPORT(name) __attribute__((import_module("waspmq:policy/host@0.1.0"), import_name(name)))
typedef struct { bool is_some; wq_string value; } wq_option_string;
typedef struct { bool is_some; wq_bytes value; } wq_option_bytes;
typedef struct { bool is_some; int64_t value; } wq_option_number;

WQ_IMPORT("log") extern void wq_import_log(uint32_t, const char *, uint32_t);
WQ_IMPORT("counter") extern void wq_import_counter(const char *, uint32_t, uint64_t);
WQ_IMPORT("histogram") extern void wq_import_histogram(const char *, uint32_t, uint64_t);
WQ_IMPORT("header") extern void wq_import_header(const char *, uint32_t, wq_option_string *);
WQ_IMPORT("headers") extern void wq_import_headers(wq_header_list *);
WQ_IMPORT("payload") extern void wq_import_payload(wq_bytes *);
WQ_IMPORT("kv-get") extern void wq_import_kv_get(const char *, uint32_t, wq_option_bytes *);
WQ_IMPORT("kv-set") extern uint32_t wq_import_kv_set(const char *, uint32_t, const uint8_t *, uint32_t, uint64_t);
WQ_IMPORT("kv-delete") extern void wq_import_kv_delete(const char *, uint32_t);
WQ_IMPORT("kv-compare-and-set") extern uint32_t wq_import_kv_compare_and_set(
    const char *, uint32_t, uint32_t, const uint8_t *, uint32_t, const uint8_t *, uint32_t, uint64_t);
WQ_IMPORT("kv-add") extern void wq_import_kv_add(const char *, uint32_t, int64_t, uint64_t, wq_option_number *);
WQ_IMPORT("take") extern uint32_t wq_import_take(const char *, uint32_t, uint32_t, uint32_t, uint32_t);
WQ_IMPORT("is-online") extern uint32_t wq_import_is_online(const char *, uint32_t);
WQ_IMPORT("in-flight") extern void wq_import_in_flight(uint64_t, wq_numbers *);
WQ_IMPORT("now") extern uint64_t wq_now(void);
WQ_IMPORT("random") extern uint64_t wq_random(void);
WQ_IMPORT("group-size") extern uint32_t wq_import_group_size(const char *, uint32_t);

static inline void wq_log(wq_log_level level, wq_string text) { wq_import_log(level, text.ptr, text.len); }
static inline void wq_counter(wq_string name, uint64_t delta) { wq_import_counter(name.ptr, name.len, delta); }
static inline void wq_histogram(wq_string name, uint64_t value) { wq_import_histogram(name.ptr, name.len, value); }
static inline wq_option_string wq_header(wq_string name) {
  wq_option_string found;
  wq_import_header(name.ptr, name.len, &found);
  return found;
}
static inline wq_header_list wq_headers(void) {
  wq_header_list all;
  wq_import_headers(&all);
  return all;
}
static inline wq_bytes wq_payload(void) {
  wq_bytes payload;
  wq_import_payload(&payload);
  return payload;
}
static inline wq_option_bytes wq_kv_get(wq_string key) {
  wq_option_bytes found;
  wq_import_kv_get(key.ptr, key.len, &found);
  return found;
}
static inline bool wq_kv_set(wq_string key, wq_bytes value, uint64_t ttl_ms) {
  return wq_import_kv_set(key.ptr, key.len, value.ptr, value.len, ttl_ms);
}
static inline void wq_kv_delete(wq_string key) { wq_import_kv_delete(key.ptr, key.len); }
static inline bool wq_kv_compare_and_set(wq_string key, wq_option_bytes expected, wq_bytes value, uint64_t ttl_ms) {
  return wq_import_kv_compare_and_set(key.ptr, key.len, expected.is_some, expected.value.ptr, expected.value.len,
                                      value.ptr, value.len, ttl_ms);
}
static inline wq_option_number wq_kv_add(wq_string key, int64_t delta, uint64_t ttl_ms) {
  wq_option_number sum;
  wq_import_kv_add(key.ptr, key.len, delta, ttl_ms, &sum);
  return sum;
}
static inline bool wq_take(wq_string bucket, uint32_t amount, uint32_t per_second, uint32_t burst) {
  return wq_import_take(bucket.ptr, bucket.len, amount, per_second, burst);
}
static inline bool wq_is_online(wq_string user) { return wq_import_is_online(user.ptr, user.len); }
/* What each member of the queue with this version of members has in flight; none when the version is not current. */
static inline wq_numbers wq_in_flight(uint64_t version) {
  wq_numbers numbers;
  wq_import_in_flight(version, &numbers);
  return numbers;
}
static inline uint32_t wq_group_size(wq_string group) { return wq_import_group_size(group.ptr, group.len); }

/* ---- the exports: what the broker calls ---- */

#define WQ_EXPORT(name) __attribute__((export_name(name)))
/* The broker reads an answer and then calls this. */
#define WQ_ANSWERED(name) \
  WQ_EXPORT("cabi_post_" name) void WQ_JOIN(wq_answered_, __COUNTER__)(void *answer) { (void)answer; wq_call_is_over(); }
#define WQ_JOIN(a, b) WQ_JOIN_(a, b)
#define WQ_JOIN_(a, b) a##b

static wq_result wq_said;

WQ_EXPORT("configure") wq_result *wq_export_configure(const char *ptr, uint32_t len) {
  wq_said = wq_configure((wq_string){ ptr, len });
  wq_floor = wq_top; /* what was asked for until here stays */
  return &wq_said;
}
WQ_ANSWERED("configure")

WQ_EXPORT("self-test") wq_result *wq_export_self_test(void) {
  wq_said = wq_ok();
  return &wq_said;
}
WQ_ANSWERED("self-test")

#define WQ_MESSAGE_PARAMETERS                                                                                     \
  const char *sender, uint32_t sender_len, const char *address, uint32_t address_len, uint32_t kind,              \
      const char *key, uint32_t key_len, uint32_t size, uint32_t priority, uint64_t ts
#define WQ_MESSAGE                                                                                                \
  { { sender, sender_len }, { address, address_len }, (uint8_t)kind, { key, key_len }, size, (uint8_t)priority, ts }

#ifdef WQ_ROUTING
typedef struct { wq_string pattern, queue; uint64_t version; wq_strings members; } wq_queue_members;
enum { WQ_CONTINUE, WQ_DELIVER, WQ_REDIRECT, WQ_FAN_OUT, WQ_PICK, WQ_DROP };
typedef enum { WQ_NEVER, WQ_BY_ADDRESS, WQ_BY_CONNECTION } wq_cache;
typedef struct {
  struct {
    uint8_t tag;
    union {
      wq_string redirect, drop;
      wq_strings fan_out;
      struct { uint64_t version; uint32_t index; } pick;
    };
  } route;
  wq_header_list set_headers;
  uint8_t cache; /* wq_cache */
} wq_verdict;
_Static_assert(sizeof(wq_verdict) == 40, "as the canonical ABI lays it out");

/* Written by the policy. */
wq_verdict wq_route(const wq_message *message);
/* Told of every queue before the first message, and of changes later. No members: the queue is gone. */
void wq_members_changed(const wq_queue_members *members);

static inline wq_verdict wq_pass(void) { return (wq_verdict){ .route.tag = WQ_CONTINUE }; }
static inline wq_verdict wq_redirect(wq_string to) { return (wq_verdict){ .route = { .tag = WQ_REDIRECT, .redirect = to } }; }
static inline wq_verdict wq_drop(wq_string why) { return (wq_verdict){ .route = { .tag = WQ_DROP, .drop = why } }; }

static wq_verdict wq_decided;
WQ_EXPORT("route") wq_verdict *wq_export_route(WQ_MESSAGE_PARAMETERS) {
  wq_message message = WQ_MESSAGE;
  wq_decided = wq_route(&message);
  return &wq_decided;
}
WQ_ANSWERED("route")
WQ_EXPORT("members-changed") void wq_export_members_changed(
    const char *pattern, uint32_t pattern_len, const char *queue, uint32_t queue_len, uint64_t version,
    const wq_string *members, uint32_t members_len) {
  wq_queue_members told = { { pattern, pattern_len }, { queue, queue_len }, version, { members, members_len } };
  wq_members_changed(&told);
  wq_call_is_over();
}
#endif

#ifdef WQ_ACK
typedef enum { WQ_LEVEL_NONE, WQ_ACCEPTED, WQ_STORED, WQ_DELIVERED } wq_level;
typedef struct {
  uint8_t level; /* wq_level */
  struct { uint8_t tag; uint32_t count; } quorum; /* 0 any, 1 count, 2 all */
  uint32_t timeout_ms;
  uint16_t attempts;
  uint32_t initial_ms, max_ms;
  uint8_t jitter_percent;
  uint8_t exhausted; /* 0 dead letter, 1 drop */
} wq_ack_plan;
typedef struct { bool is_some; wq_ack_plan value; } wq_option_plan;
typedef enum { WQ_TIMEOUT, WQ_NACK, WQ_QUEUE_FULL, WQ_OFFLINE, WQ_CONNECTION_LOST } wq_cause;
typedef struct {
  wq_string address, sender, recipient;
  uint8_t cause; /* wq_cause */
  uint16_t attempt, messages;
  uint64_t waited_ms;
  struct { bool is_some; uint32_t value; } retry_ms;
  uint16_t attempts;
  uint64_t random;
} wq_failure;
enum { WQ_CONTINUE, WQ_RETRY, WQ_WAIT, WQ_GIVE_UP };
typedef struct { uint8_t tag; uint32_t ms; } wq_decision;
typedef struct { wq_message message; wq_ack_plan configured; } wq_plan_parameters;
_Static_assert(sizeof(wq_plan_parameters) == 80 && sizeof(wq_option_plan) == 36, "as the canonical ABI lays it out");

/* Written by the policy; no plan leaves it to others. */
wq_option_plan wq_plan(const wq_message *message, const wq_ack_plan *configured);
wq_decision wq_failed(const wq_failure *failure);

static wq_option_plan wq_planned;
WQ_EXPORT("plan") wq_option_plan *wq_export_plan(const wq_plan_parameters *asked) {
  wq_planned = wq_plan(&asked->message, &asked->configured);
  return &wq_planned;
}
WQ_ANSWERED("plan")
static wq_decision wq_decided;
WQ_EXPORT("failed") wq_decision *wq_export_failed(
    const char *address, uint32_t address_len, const char *sender, uint32_t sender_len, const char *recipient,
    uint32_t recipient_len, uint32_t cause, uint32_t attempt, uint32_t messages, uint64_t waited_ms,
    uint32_t has_retry, uint32_t retry_ms, uint32_t attempts, uint64_t random) {
  wq_failure failure = { { address, address_len }, { sender, sender_len }, { recipient, recipient_len },
                         (uint8_t)cause, (uint16_t)attempt, (uint16_t)messages, waited_ms,
                         { has_retry != 0, retry_ms }, (uint16_t)attempts, random };
  wq_decided = wq_failed(&failure);
  return &wq_decided;
}
WQ_ANSWERED("failed")
#endif

#ifdef WQ_ADMISSION
enum { WQ_CONTINUE, WQ_ACCEPT, WQ_REFUSE };
typedef struct { uint8_t tag; struct { wq_string reason; uint32_t retry_ms; } refusal; } wq_admission;
_Static_assert(sizeof(wq_admission) == 16, "as the canonical ABI lays it out");

/* Written by the policy. */
wq_admission wq_admit(const wq_message *message);

static wq_admission wq_decided;
WQ_EXPORT("admit") wq_admission *wq_export_admit(WQ_MESSAGE_PARAMETERS) {
  wq_message message = WQ_MESSAGE;
  wq_decided = wq_admit(&message);
  return &wq_decided;
}
WQ_ANSWERED("admit")
#endif

#ifdef WQ_OVERFLOW
typedef enum { WQ_CONTINUE, WQ_DROP_OLDEST, WQ_DROP_NEWEST, WQ_CONFLATE, WQ_SPILL, WQ_CLOSE } wq_action;
typedef struct {
  wq_string address, recipient;
  wq_kind kind;
  uint8_t priority;
  uint32_t size, queued_bytes, queued_bytes_max;
  wq_action configured;
} wq_overflowing;

/* Written by the policy. */
wq_action wq_overflow(const wq_overflowing *what);

WQ_EXPORT("overflow") uint32_t wq_export_overflow(
    const char *address, uint32_t address_len, const char *recipient, uint32_t recipient_len, uint32_t kind,
    uint32_t priority, uint32_t size, uint32_t queued_bytes, uint32_t queued_bytes_max, uint32_t configured) {
  wq_overflowing what = { { address, address_len }, { recipient, recipient_len }, (wq_kind)kind,
                          (uint8_t)priority, size, queued_bytes, queued_bytes_max, (wq_action)configured };
  wq_action action = wq_overflow(&what);
  wq_call_is_over();
  return action;
}
#endif

/* ---- what the compiler takes for granted ---- */

void *memcpy(void *restrict to, const void *restrict from, size_t bytes) {
  char *restrict t = to;
  const char *restrict f = from;
  while (bytes--) *t++ = *f++;
  return to;
}
void *memset(void *to, int byte, size_t bytes) {
  char *t = to;
  while (bytes--) *t++ = (char)byte;
  return to;
}
int memcmp(const void *a, const void *b, size_t bytes) {
  const unsigned char *x = a, *y = b;
  for (; bytes > 0; bytes--, x++, y++) if (*x != *y) return *x < *y ? -1 : 1;
  return 0;
}

#endif
