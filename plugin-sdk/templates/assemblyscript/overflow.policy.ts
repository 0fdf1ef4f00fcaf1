/** Keeps what is urgent in the store for a recipient that does not keep up, and of topics the newest of each key. */

import { Flat } from "./json";
import { Kind, host } from "./waspmq";
import { Action, Overflowing } from "./types";

/** The least priority that is urgent. */
let urgent: u8 = 7;

/** `null`, or what is wrong. */
export function configure(text: string): string | null {
  const config = new Flat(text);
  if (config.has("urgent")) {
    const number = config.number("urgent", 255);
    if (number < 0) return "`urgent` must be a number from 0 to 255";
    urgent = <u8>number;
  }
  return null;
}

export function overflow(what: Overflowing): Action {
  if (what.priority >= urgent) {
    host.counter("spilled", 1);
    return Action.Spill;
  }
  return what.kind == Kind.Topic ? Action.Conflate : Action.Continue;
}
