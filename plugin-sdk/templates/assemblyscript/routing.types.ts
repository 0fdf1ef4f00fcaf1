/** What a routing policy is told and answers. */

import { Header } from "./waspmq";

export enum Route { Continue, Deliver, Redirect, FanOut, Pick, Drop }
export enum Cache { Never, Address, Connection }

export class Verdict {
  to: string[] = [];
  version: u64 = 0;
  index: u32 = 0;
  setHeaders: Header[] = [];
  /** What else the verdict holds for. */
  cache: Cache = Cache.Never;
  constructor(public route: Route) {}

  /** Ask the next policy; behind the last one, deliver as addressed. */
  static pass(): Verdict {
    return new Verdict(Route.Continue);
  }
  /** Deliver as addressed and ask no further policy. */
  static deliver(): Verdict {
    return new Verdict(Route.Deliver);
  }
  static redirect(address: string): Verdict {
    return Verdict.fanOut([address], Route.Redirect);
  }
  static fanOut(addresses: string[], route: Route = Route.FanOut): Verdict {
    const verdict = new Verdict(route);
    verdict.to = addresses;
    return verdict;
  }
  static pick(version: u64, index: u32): Verdict {
    const verdict = new Verdict(Route.Pick);
    verdict.version = version;
    verdict.index = index;
    return verdict;
  }
  /** Deliver to nobody and tell the publisher why. */
  static drop(reason: string): Verdict {
    return Verdict.fanOut([reason], Route.Drop);
  }
}

/** The members of one queue; none: it is gone. */
export class QueueMembers {
  constructor(public pattern: string, public queue: string, public version: u64, public members: string[]) {}
}
