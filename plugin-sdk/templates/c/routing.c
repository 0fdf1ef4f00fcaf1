/* Sends messages on by the value of one header, and drops those that are too large. */

#define WQ_ROUTING
#include "waspmq.h"
#include "json.h"

static wq_string header;            /* the header that is looked at */
static wq_string to;                /* what the header's value is put behind */
static uint32_t bytes_max = 65536;  /* bytes of the largest payload */

wq_result wq_configure(wq_string config) {
  if (json_string(config, WQ("header"), &header) != JSON_FOUND) return wq_error(WQ("`header` must be a text"));
  if (json_string(config, WQ("to"), &to) != JSON_FOUND) return wq_error(WQ("`to` must be a text"));
  if (json_number(config, WQ("bytes_max"), UINT32_MAX, &bytes_max) == JSON_OTHER)
    return wq_error(WQ("`bytes_max` must be a number"));
  return wq_ok();
}

wq_verdict wq_route(const wq_message *message) {
  if (message->size > bytes_max)
    return wq_drop(wq_concat(WQ("more than "), wq_concat(wq_number(bytes_max), WQ(" bytes"))));
  wq_option_string value = wq_header(header);
  if (value.is_some && value.value.len > 0) {
    wq_counter(WQ("sent_on"), 1);
    return wq_redirect(wq_concat(to, value.value));
  }
  static const wq_header_pair checked[] = { { { "checked", 7 }, { "yes", 3 } } };
  wq_verdict verdict = wq_pass();
  verdict.set_headers = (wq_header_list){ checked, 1 };
  return verdict;
}

/* This policy chooses no member of a queue. */
void wq_members_changed(const wq_queue_members *members) { (void)members; }
