/** What an admission policy answers. */

export enum Answer { Continue, Accept, Refuse }

export class Admission {
  reason: string = "";
  retryMs: u32 = 0;
  constructor(public answer: Answer) {}

  /** Ask the next policy; behind the last one, take the message in. */
  static pass(): Admission {
    return new Admission(Answer.Continue);
  }
  /** Take it in and ask no further policy. */
  static accept(): Admission {
    return new Admission(Answer.Accept);
  }
  /** Tell the publisher why, and when to try again; 0: never. */
  static refuse(reason: string, retryMs: u32): Admission {
    const admission = new Admission(Answer.Refuse);
    admission.reason = reason;
    admission.retryMs = retryMs;
    return admission;
  }
}
