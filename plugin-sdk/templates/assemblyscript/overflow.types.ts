/** What an overflow policy is told and answers. */

import { Kind } from "./waspmq";

export enum Action { Continue, DropOldest, DropNewest, Conflate, Spill, Close }

/** Messages that do not fit one recipient's queue. */
export class Overflowing {
  constructor(
    public address: string,
    /** `user/device/session` of the connection. */
    public recipient: string,
    public kind: Kind,
    public priority: u8,
    public size: u32,
    public queuedBytes: u32,
    public queuedBytesMax: u32,
    /** What the configuration asks for. */
    public configured: Action,
  ) {}
}
