/** Sends messages on by the value of one header, and drops those that are too large. */

import { Flat } from "./json";
import { Header, Message, host } from "./waspmq";
import { QueueMembers, Verdict } from "./types";

/** The header that is looked at. */
let header = "";
/** What the header's value is put behind. */
let to = "";
/** Bytes of the largest payload. */
let bytesMax: u32 = 65536;

/** `null`, or what is wrong. */
export function configure(text: string): string | null {
  const config = new Flat(text);
  const wantedHeader = config.string("header"), wantedTo = config.string("to");
  if (wantedHeader === null) return "`header` must be a text";
  if (wantedTo === null) return "`to` must be a text";
  header = wantedHeader;
  to = wantedTo;
  if (config.has("bytes_max")) {
    const number = config.number("bytes_max", u32.MAX_VALUE);
    if (number < 0) return "`bytes_max` must be a number";
    bytesMax = <u32>number;
  }
  return null;
}

export function route(message: Message): Verdict {
  if (message.size > bytesMax) return Verdict.drop(`more than ${bytesMax} bytes`);
  const value = host.header(header);
  if (value !== null && value.length > 0) {
    host.counter("sent_on", 1);
    return Verdict.redirect(to + value);
  }
  const verdict = Verdict.pass();
  verdict.setHeaders.push(new Header("checked", "yes"));
  return verdict;
}

/** This policy chooses no member of a queue. */
export function membersChanged(members: QueueMembers): void {}
