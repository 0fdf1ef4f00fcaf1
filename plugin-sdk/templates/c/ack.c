/* Has urgent messages delivered in several attempts, and waits for who is offline. */

#define WQ_ACK
#include "waspmq.h"
#include "json.h"

/* How long somebody who is offline is waited for until the broker looks again. */
#define OFFLINE_MS 60000

static uint32_t urgent = 7; /* the least priority that is urgent */
static uint32_t attempts = 5;
static uint32_t timeout_ms = 2000;

wq_result wq_configure(wq_string config) {
  if (json_number(config, WQ("urgent"), 255, &urgent) == JSON_OTHER)
    return wq_error(WQ("`urgent` must be a number from 0 to 255"));
  if (json_number(config, WQ("attempts"), 1000, &attempts) == JSON_OTHER || attempts == 0)
    return wq_error(WQ("`attempts` must be a number from 1 to 1000"));
  if (json_number(config, WQ("timeout_ms"), 86400000, &timeout_ms) == JSON_OTHER || timeout_ms == 0)
    return wq_error(WQ("`timeout_ms` must be a number from 1 to 86400000"));
  return wq_ok();
}

wq_option_plan wq_plan(const wq_message *message, const wq_ack_plan *configured) {
  if (message->priority < urgent) return (wq_option_plan){ .is_some = false };
  wq_counter(WQ("urgent"), 1);
  wq_option_plan plan = { .is_some = true, .value = *configured };
  plan.value.level = WQ_DELIVERED;
  plan.value.attempts = (uint16_t)attempts;
  plan.value.timeout_ms = timeout_ms;
  return plan;
}

wq_decision wq_failed(const wq_failure *failure) {
  if (failure->cause == WQ_OFFLINE) return (wq_decision){ WQ_WAIT, OFFLINE_MS };
  if (failure->cause == WQ_NACK && failure->retry_ms.is_some) return (wq_decision){ WQ_RETRY, failure->retry_ms.value };
  return (wq_decision){ WQ_CONTINUE, 0 };
}
