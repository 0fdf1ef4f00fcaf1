/** Takes in so many messages a second of each sender. */

import { Flat } from "./json";
import { Message, host } from "./waspmq";
import { Admission } from "./types";

/** When to try again, for who was refused. */
const RETRY_MS: u32 = 1000;

let perSecond: u32 = 10;
/** As many are taken in at once. */
let burst: u32 = 20;

/** `null`, or what is wrong. */
export function configure(text: string): string | null {
  const config = new Flat(text);
  const rate = config.has("per_second") ? config.number("per_second", u32.MAX_VALUE) : perSecond;
  if (rate < 1) return "`per_second` must be a number, at least 1";
  const atOnce = config.has("burst") ? config.number("burst", u32.MAX_VALUE) : burst;
  if (atOnce < 1) return "`burst` must be a number, at least 1";
  perSecond = <u32>rate;
  burst = <u32>atOnce;
  return null;
}

export function admit(message: Message): Admission {
  if (host.take("from/" + message.sender, 1, perSecond, burst)) return Admission.pass();
  host.counter("refused", 1);
  return Admission.refuse(`more than ${perSecond} messages a second`, RETRY_MS);
}
