/* Keeps what is urgent in the store for a recipient that does not keep up, and of topics the newest of each key. */

#define WQ_OVERFLOW
#include "waspmq.h"
#include "json.h"

static uint32_t urgent = 7; /* the least priority that is urgent */

wq_result wq_configure(wq_string config) {
  if (json_number(config, WQ("urgent"), 255, &urgent) == JSON_OTHER)
    return wq_error(WQ("`urgent` must be a number from 0 to 255"));
  return wq_ok();
}

wq_action wq_overflow(const wq_overflowing *what) {
  if (what->priority >= urgent) {
    wq_counter(WQ("spilled"), 1);
    return WQ_SPILL;
  }
  return what->kind == WQ_TOPIC ? WQ_CONFLATE : WQ_CONTINUE;
}
