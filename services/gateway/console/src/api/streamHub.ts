// All streams of a browser (in the shared worker) or of one page: what several follow is read once, and all take turns.
import { readStream, type News, type Wanted } from "@/api/streamReading";
import { Turns } from "@/api/turns";

// Of the six connections to one host that browsers open: the rest is for pages and answers.
const PLACES = 3;
const TURN_MS = 2000;

interface Shared {
  listeners: Set<(news: News) => void>;
  stop: AbortController;
  open: boolean;
}

export class StreamHub {
  private readonly shared = new Map<string, Shared>();

  constructor(private readonly turns = new Turns(PLACES, TURN_MS)) {}

  /** Follow a stream until the returned function is called. With `share` all who follow the same one hear one reading of it, from now on. */
  follow(wanted: Wanted, share: boolean, tell: (news: News) => void): () => void {
    if (share) return this.join(wanted, tell);
    const stop = new AbortController();
    void readStream(wanted, this.turns, stop.signal, tell);
    return () => stop.abort();
  }

  private join(wanted: Wanted, tell: (news: News) => void): () => void {
    const key = `${wanted.token} ${wanted.path}`;
    const one = this.shared.get(key) ?? this.begin(key, wanted);
    one.listeners.add(tell);
    if (one.open) tell({ kind: "open" });
    return () => {
      one.listeners.delete(tell);
      if (one.listeners.size > 0) return;
      one.stop.abort();
      if (this.shared.get(key) === one) this.shared.delete(key);
    };
  }

  private begin(key: string, wanted: Wanted): Shared {
    const one: Shared = { listeners: new Set(), stop: new AbortController(), open: false };
    this.shared.set(key, one);
    void readStream(wanted, this.turns, one.stop.signal, (news) => {
      if (news.kind !== "message") one.open = news.kind === "open";
      if (news.kind === "end" || news.kind === "refused") this.shared.delete(key);
      for (const listener of [...one.listeners]) listener(news);
    });
    return one;
  }
}
