/* Takes in so many messages a second of each sender. */

#define WQ_ADMISSION
#include "waspmq.h"
#include "json.h"

/* When to try again, for who was refused. */
#define RETRY_MS 1000

static uint32_t per_second = 10;
static uint32_t burst = 20; /* as many are taken in at once */

wq_result wq_configure(wq_string config) {
  if (json_number(config, WQ("per_second"), UINT32_MAX, &per_second) == JSON_OTHER || per_second == 0)
    return wq_error(WQ("`per_second` must be a number, at least 1"));
  if (json_number(config, WQ("burst"), UINT32_MAX, &burst) == JSON_OTHER || burst == 0)
    return wq_error(WQ("`burst` must be a number, at least 1"));
  return wq_ok();
}

wq_admission wq_admit(const wq_message *message) {
  if (wq_take(wq_concat(WQ("from/"), message->sender), 1, per_second, burst)) return (wq_admission){ .tag = WQ_CONTINUE };
  wq_counter(WQ("refused"), 1);
  wq_string reason = wq_concat(WQ("more than "), wq_concat(wq_number(per_second), WQ(" messages a second")));
  return (wq_admission){ .tag = WQ_REFUSE, .refusal = { reason, RETRY_MS } };
}
