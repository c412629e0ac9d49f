// One stream of server-sent events, read with fetch because EventSource cannot send a token: resumed by Last-Event-ID, tried again with
// growing pauses, and never open for longer than its turn. Runs in a page and in the worker that all tabs share.
import { createParser } from "eventsource-parser";
import type { Turn, Turns } from "@/api/turns";

export interface StreamMessage {
  id: string | undefined;
  event: string | undefined;
  data: string;
}

/** What to read: the place, and for whom. */
export interface Wanted {
  path: string;
  token: string;
  /** The place to read on from. */
  lastId?: string | undefined;
}

/** What happens to a stream: it opens, breaks (and is tried again), tells something, or is over for good. */
export type News = { kind: "open" } | { kind: "broken" } | { kind: "message"; message: StreamMessage } | { kind: "end" } | { kind: "refused" };

const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 10_000;
// The gateway pings every 15 s: a stream that says nothing for longer than this is dead, whatever TCP believes.
const SILENCE_MS = 40_000;
// Refusals that trying again does not heal.
const FINAL = [400, 403, 404, 422];
const REFUSED = 401;

type Outcome = "end" | "refused" | "broken";

/** Read a stream until it is over or `stopped`. */
export async function readStream(wanted: Wanted, turns: Turns, stopped: AbortSignal, tell: (news: News) => void): Promise<void> {
  const place = { id: wanted.lastId };
  let pause = FIRST_PAUSE_MS;
  while (!stopped.aborted) {
    const turn = await turns.take(stopped);
    if (turn === null) return;
    const outcome = await readOnce(wanted, place, turn, stopped, (news) => {
      if (news.kind === "open") pause = FIRST_PAUSE_MS;
      tell(news);
    });
    turn.end();
    if (stopped.aborted) return;
    if (outcome !== "broken") return tell({ kind: outcome });
    // Another stream's turn: this one goes on soon, from where it was.
    if (turn.over.aborted) continue;
    tell({ kind: "broken" });
    await sleep(pause, stopped);
    pause = Math.min(pause * 2, LONGEST_PAUSE_MS);
  }
}

async function readOnce(wanted: Wanted, place: { id: string | undefined }, turn: Turn, stopped: AbortSignal, tell: (news: News) => void): Promise<Outcome> {
  const silence = new AbortController();
  let alarm = setTimeout(() => silence.abort(), SILENCE_MS);
  let over = false;
  const headers: Record<string, string> = { Accept: "text/event-stream", Authorization: `Bearer ${wanted.token}` };
  if (place.id !== undefined) headers["Last-Event-ID"] = place.id;
  try {
    const signal = AbortSignal.any([stopped, silence.signal, turn.over]);
    const response = await fetch(wanted.path, { headers, signal, cache: "no-store" });
    if (response.status === REFUSED) return "refused";
    if (FINAL.includes(response.status)) return "end";
    if (!response.ok || response.body === null) return "broken";
    tell({ kind: "open" });
    turn.begin();
    const parser = createParser({
      onEvent: ({ id, event, data }) => {
        if (id !== undefined) place.id = id;
        if (event === "end") over = true;
        else tell({ kind: "message", message: { id, event, data } });
      },
    });
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return over ? "end" : "broken";
      clearTimeout(alarm);
      alarm = setTimeout(() => silence.abort(), SILENCE_MS);
      parser.feed(value);
      if (over) return "end";
    }
  } catch {
    return "broken";
  } finally {
    clearTimeout(alarm);
  }
}

function sleep(ms: number, stopped: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    stopped.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });
}
