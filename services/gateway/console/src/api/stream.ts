// Server-sent events for a screen, through the worker that all tabs share, or within the page where browsers have no such workers.
import { StreamHub } from "@/api/streamHub";
import type { News, StreamMessage, Wanted } from "@/api/streamReading";
import type { Asked, Told } from "@/api/streamWorker";
import { endSession, session } from "@/app/session";

export interface StreamOptions {
  /** The place to read on from; grows with what was received. */
  lastId?: string;
  /** Hear what other tabs hear, from now on: one reading for all who follow the same. */
  share?: boolean;
  onMessage: (message: StreamMessage) => void;
  /** true when the stream is open, false when it broke and is tried again. */
  onOpen?: (open: boolean) => void;
  /** The gateway said that no more will come, or refused for good. */
  onEnd?: () => void;
}

type Tell = (news: News) => void;
interface Follower {
  wanted: Wanted;
  share: boolean;
  tell: Tell;
}
type Start = (follower: Follower) => () => void;

/** Follow a stream until the returned function is called. */
export function follow(path: string, options: StreamOptions): () => void {
  const wanted: Wanted = { path, token: session.token ?? "", lastId: options.lastId };
  let over = false;
  function tell(news: News): void {
    if (over) return;
    if (news.kind === "message") {
      wanted.lastId = news.message.id ?? wanted.lastId;
      options.onMessage(news.message);
    } else if (news.kind === "open" || news.kind === "broken") {
      options.onOpen?.(news.kind === "open");
    } else {
      over = true;
      if (news.kind === "refused") endSession("refused");
      options.onEnd?.();
    }
  }
  start ??= typeof SharedWorker === "undefined" ? inPage() : inWorker();
  const stop = start({ wanted, share: options.share ?? false, tell });
  return () => {
    over = true;
    stop();
  };
}

let start: Start | null = null;

// Without the worker tabs know nothing of each other: one that nobody sees gives its places back, and goes on from where it was.
function inPage(): Start {
  const hub = new StreamHub();
  const stops = new Map<Follower, () => void>();
  function begin(follower: Follower): void {
    stops.set(follower, document.hidden ? () => undefined : hub.follow({ ...follower.wanted }, follower.share, follower.tell));
  }
  document.addEventListener("visibilitychange", () => {
    for (const [follower, stop] of [...stops]) {
      stop();
      begin(follower);
    }
  });
  return (follower) => {
    begin(follower);
    return () => {
      stops.get(follower)?.();
      stops.delete(follower);
    };
  };
}

function inWorker(): Start {
  const worker = new SharedWorker(new URL("./streamWorker.ts", import.meta.url), { type: "module", name: "ltp-streams" });
  const followers = new Map<number, Follower>();
  let last = 0;
  const ask = (asked: Asked): void => worker.port.postMessage(asked);
  const begin = (of: number, { wanted, share }: Follower): void => ask({ follow: of, wanted: { ...wanted }, share });
  worker.port.onmessage = ({ data }: MessageEvent<Told>) => followers.get(data.of)?.tell(data.news);
  // A page that is left gives its places back at once; one that the way back brings again goes on from where it was.
  addEventListener("pagehide", () => ask({ leave: true }));
  addEventListener("pageshow", ({ persisted }) => {
    if (persisted) for (const [of, follower] of followers) begin(of, follower);
  });
  return (follower) => {
    const of = (last += 1);
    followers.set(of, follower);
    begin(of, follower);
    return () => {
      followers.delete(of);
      ask({ stop: of });
    };
  };
}
