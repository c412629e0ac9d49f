// Whether news come: one stream of events for all tabs, which every screen hears. What broke it is told once, by the banner.
import { reactive, readonly } from "vue";
import { api, ask, type Schemas } from "@/api/client";
import { follow } from "@/api/stream";

export type EventLine = Schemas["EventLine"];
type Listener = (event: EventLine) => void;

const state = reactive({ connected: true, lostAt: null as Date | null, heardAt: null as Date | null });
export const connection = readonly(state);

const listeners = new Set<Listener>();
const returns = new Set<() => void>();
let stop: (() => void) | null = null;
let restart: ReturnType<typeof setTimeout> | null = null;

function mark(connected: boolean): void {
  const back = connected && !state.connected;
  if (!connected && state.connected) state.lostAt = new Date();
  if (connected) state.lostAt = null;
  state.connected = connected;
  if (back) for (const listener of returns) listener();
}

/** Begin to hear events, from now on. */
export async function connect(): Promise<void> {
  disconnect();
  stop = () => undefined;
  try {
    const newest = await ask(api.GET("/api/v1/events", { params: { query: { last: 1 } } }));
    if (stop === null) return;
    stop = follow("/api/v1/events/stream", {
      lastId: String(newest.at(-1)?.seq ?? 0),
      share: true,
      onOpen: mark,
      onMessage: (message) => {
        state.heardAt = new Date();
        const event = JSON.parse(message.data) as EventLine;
        for (const listener of listeners) listener(event);
      },
    });
  } catch {
    if (stop === null) return;
    mark(false);
    restart = setTimeout(() => void connect(), 2000);
  }
}

export function disconnect(): void {
  stop?.();
  stop = null;
  if (restart !== null) clearTimeout(restart);
}

/** Hear events; the returned function ends it. Inside a component use `useEvents`. */
export function hear(listener: Listener): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/** Called when the connection is back after a break: what was missed is read anew. */
export function onReturn(listener: () => void): () => void {
  returns.add(listener);
  return () => returns.delete(listener);
}
