// Server-sent events read with fetch, because EventSource cannot send a token: resumed by Last-Event-ID, tried again with growing pauses.
import { createParser } from "eventsource-parser";
import { problemOf } from "@/api/problem";
import { endSession, session } from "@/app/session";

export interface StreamMessage {
  id: string | undefined;
  event: string | undefined;
  data: string;
}

export interface StreamOptions {
  /** The place to read on from; grows with what was received. */
  lastId?: string;
  onMessage: (message: StreamMessage) => void;
  /** true when the stream is open, false when it broke and is tried again. */
  onOpen?: (open: boolean) => void;
  /** The gateway said that no more will come, or refused for good. */
  onEnd?: () => void;
}

const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 10_000;
// The gateway pings every 15 s: a stream that says nothing for longer than this is dead, whatever TCP believes.
const SILENCE_MS = 40_000;

/** Follow a stream until the returned function is called. */
export function follow(path: string, options: StreamOptions): () => void {
  const stopped = new AbortController();
  void run(path, options, stopped.signal);
  return () => stopped.abort();
}

async function run(path: string, options: StreamOptions, stopped: AbortSignal): Promise<void> {
  const place = { id: options.lastId };
  let pause = FIRST_PAUSE_MS;
  while (!stopped.aborted) {
    try {
      const over = await readOnce(path, options, place, stopped, () => (pause = FIRST_PAUSE_MS));
      if (over) {
        options.onEnd?.();
        return;
      }
    } catch {
      // Broken or refused for now: the next turn tries again.
    }
    if (stopped.aborted) return;
    options.onOpen?.(false);
    await sleep(pause, stopped);
    pause = Math.min(pause * 2, LONGEST_PAUSE_MS);
  }
}

async function readOnce(
  path: string,
  options: StreamOptions,
  place: { id: string | undefined },
  stopped: AbortSignal,
  opened: () => void,
): Promise<boolean> {
  const silence = new AbortController();
  let alarm = setTimeout(() => silence.abort(), SILENCE_MS);
  let over = false;
  const headers: Record<string, string> = { Accept: "text/event-stream", Authorization: `Bearer ${session.token ?? ""}` };
  if (place.id !== undefined) headers["Last-Event-ID"] = place.id;
  try {
    const signal = AbortSignal.any([stopped, silence.signal]);
    const response = await fetch(path, { headers, signal, cache: "no-store" });
    if (response.status === 401) endSession("refused");
    if (isFinal(response.status)) return true;
    if (!response.ok || response.body === null) throw problemOf(response.status, undefined);
    options.onOpen?.(true);
    opened();
    const parser = createParser({
      onEvent: ({ id, event, data }) => {
        if (id !== undefined) place.id = id;
        if (event === "end") over = true;
        else options.onMessage({ id, event, data });
      },
    });
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return over;
      clearTimeout(alarm);
      alarm = setTimeout(() => silence.abort(), SILENCE_MS);
      parser.feed(value);
      if (over) return true;
    }
  } finally {
    clearTimeout(alarm);
  }
}

/** Refusals that trying again does not heal. */
function isFinal(status: number): boolean {
  return [400, 401, 403, 404, 422].includes(status);
}

function sleep(ms: number, stopped: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    stopped.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });
}
