/** What an ack policy is told and answers. */

export enum Level { None, Accepted, Stored, Delivered }
export enum Quorum { Any, Count, All }
export enum Exhausted { DeadLetter, Drop }
export enum Cause { Timeout, Nack, QueueFull, Offline, ConnectionLost }
export enum What { Continue, Retry, Wait, GiveUp }

/** How a message is acknowledged and retried. */
export class AckPlan {
  level: Level = Level.None;
  quorum: Quorum = Quorum.All;
  /** With `Quorum.Count`. */
  count: u32 = 0;
  timeoutMs: u32 = 0;
  attempts: u16 = 0;
  initialMs: u32 = 0;
  maxMs: u32 = 0;
  jitterPercent: u8 = 0;
  exhausted: Exhausted = Exhausted.DeadLetter;

  static at(ptr: usize): AckPlan {
    const plan = new AckPlan();
    plan.level = <Level>load<u8>(ptr);
    plan.quorum = <Quorum>load<u8>(ptr, 4);
    plan.count = load<u32>(ptr, 8);
    plan.timeoutMs = load<u32>(ptr, 12);
    plan.attempts = load<u16>(ptr, 16);
    plan.initialMs = load<u32>(ptr, 20);
    plan.maxMs = load<u32>(ptr, 24);
    plan.jitterPercent = load<u8>(ptr, 28);
    plan.exhausted = <Exhausted>load<u8>(ptr, 29);
    return plan;
  }
  store(ptr: usize): void {
    store<u8>(ptr, <u8>this.level);
    store<u8>(ptr, <u8>this.quorum, 4);
    store<u32>(ptr, this.count, 8);
    store<u32>(ptr, this.timeoutMs, 12);
    store<u16>(ptr, this.attempts, 16);
    store<u32>(ptr, this.initialMs, 20);
    store<u32>(ptr, this.maxMs, 24);
    store<u8>(ptr, this.jitterPercent, 28);
    store<u8>(ptr, <u8>this.exhausted, 29);
  }
}

/** An attempt that failed. */
export class Failure {
  constructor(
    public address: string,
    public sender: string,
    public recipient: string,
    public cause: Cause,
    public attempt: u16,
    public messages: u16,
    public waitedMs: u64,
    /** Whether the recipient asked for a wait, and for which. */
    public hasRetry: bool,
    public retryMs: u32,
    public attempts: u16,
    public random: u64,
  ) {}
}

export class Decision {
  constructor(public what: What, public ms: u32) {}
  /** Ask the next policy; behind the last one, do as the plan says. */
  static pass(): Decision {
    return new Decision(What.Continue, 0);
  }
  static retry(ms: u32): Decision {
    return new Decision(What.Retry, ms);
  }
  /** Deliver as soon as the recipient is there; look again after `ms`. */
  static wait(ms: u32): Decision {
    return new Decision(What.Wait, ms);
  }
  static giveUp(): Decision {
    return new Decision(What.GiveUp, 0);
  }
}
