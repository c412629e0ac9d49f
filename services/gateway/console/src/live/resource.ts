// What a screen shows of the API: read once, read anew when an event tells of a change or the connection is back, and dated.
import { onScopeDispose, ref, shallowRef, watch, type Ref, type ShallowRef, type WatchSource } from "vue";
import { asProblem, isAbort, type Problem } from "@/api/problem";
import { hear, onReturn, type EventLine } from "@/live/connection";

export interface Resource<T> {
  data: ShallowRef<T | undefined>;
  problem: ShallowRef<Problem | null>;
  loading: Ref<boolean>;
  /** When what is shown was read. */
  asOf: ShallowRef<Date | null>;
  reload: () => Promise<void>;
}

export interface ResourceOptions {
  /** Events that tell of a change, by the beginning of their subject: `["ltp.job.", "ltp.attempt."]`. */
  live?: string[];
  /** Narrows `live` down: `(event) => event.job_id === id`. */
  concerns?: (event: EventLine) => boolean;
  /** Read anew when one of these changes (filters of the URL). */
  watch?: WatchSource[];
  /** For what no event tells of (queue depth, GPU use). */
  everySeconds?: number;
}

// Many events come together; one reading answers them all.
const SETTLE_MS = 300;

export function useResource<T>(load: (signal: AbortSignal) => Promise<T>, options: ResourceOptions = {}): Resource<T> {
  const data = shallowRef<T>();
  const problem = shallowRef<Problem | null>(null);
  const loading = ref(false);
  const asOf = shallowRef<Date | null>(null);
  let current: AbortController | null = null;
  let soon: ReturnType<typeof setTimeout> | null = null;

  async function reload(): Promise<void> {
    current?.abort();
    const mine = (current = new AbortController());
    loading.value = true;
    try {
      const got = await load(mine.signal);
      if (mine.signal.aborted) return;
      data.value = got;
      problem.value = null;
      asOf.value = new Date();
    } catch (thrown) {
      if (mine.signal.aborted || isAbort(thrown)) return;
      problem.value = asProblem(thrown);
    } finally {
      if (current === mine) loading.value = false;
    }
  }

  function reloadSoon(): void {
    soon ??= setTimeout(() => ((soon = null), void reload()), SETTLE_MS);
  }

  const { live = [], concerns = () => true, everySeconds } = options;
  const ends = [
    hear((event) => live.some((subject) => event.subject.startsWith(subject)) && concerns(event) && reloadSoon()),
    onReturn(reloadSoon),
  ];
  const timer = everySeconds === undefined ? null : setInterval(() => document.hidden || reloadSoon(), everySeconds * 1000);
  if (options.watch) watch(options.watch, () => void reload());
  onScopeDispose(() => {
    current?.abort();
    for (const end of ends) end();
    if (timer !== null) clearInterval(timer);
    if (soon !== null) clearTimeout(soon);
  });
  void reload();
  return { data, problem, loading, asOf, reload };
}

/** Hear events for as long as the component lives. */
export function useEvents(subjects: string[], listener: (event: EventLine) => void): void {
  onScopeDispose(hear((event) => subjects.some((subject) => event.subject.startsWith(subject)) && listener(event)));
}
