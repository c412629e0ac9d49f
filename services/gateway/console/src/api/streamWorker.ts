// The worker that all tabs of the console share: it holds their streams, so that many tabs do not use up the browser's connections.
import { StreamHub } from "@/api/streamHub";
import type { News, Wanted } from "@/api/streamReading";

/** What a page asks: follow a stream under a number of its own, stop that one, or, when it leaves, all. */
export type Asked = { follow: number; wanted: Wanted; share: boolean } | { stop: number } | { leave: true };
export interface Told {
  of: number;
  news: News;
}

const hub = new StreamHub();

function serve(port: MessagePort): void {
  const ends = new Map<number, () => void>();
  function leave(): void {
    for (const end of ends.values()) end();
    ends.clear();
  }
  port.onmessage = ({ data }: MessageEvent<Asked>) => {
    if ("leave" in data) return leave();
    if ("stop" in data) {
      ends.get(data.stop)?.();
      ends.delete(data.stop);
      return;
    }
    const of = data.follow;
    ends.get(of)?.();
    ends.set(of, hub.follow(data.wanted, data.share, (news) => port.postMessage({ of, news } satisfies Told)));
  };
  // Where browsers tell of it: a tab that crashed says no farewell.
  port.addEventListener("close", leave);
}

self.addEventListener("connect", (event) => {
  const [port] = (event as MessageEvent).ports;
  if (port) serve(port);
});
