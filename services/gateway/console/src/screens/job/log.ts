// The end of a training log, and all that is written to it from now on; bounded, because logs are not.
import { onScopeDispose, ref, shallowRef, type Ref, type ShallowRef } from "vue";
import { api, ask } from "@/api/client";
import { asProblem, type Problem } from "@/api/problem";
import { follow } from "@/api/stream";

const MOST_CHARACTERS = 1_000_000;
const PIECE = 65_536;

export interface JobLog {
  text: Ref<string>;
  attempt: Ref<number | null>;
  start: Ref<number>;
  over: Ref<boolean>;
  problem: ShallowRef<Problem | null>;
  earlier: () => Promise<void>;
}

export function useLog(jobId: string, wanted: number | null): JobLog {
  const text = ref("");
  const attempt = ref<number | null>(null);
  const start = ref(0);
  const over = ref(false);
  const problem = shallowRef<Problem | null>(null);
  const gone = new AbortController();
  let stop: (() => void) | null = null;

  const read = (offset: number, limit = PIECE) =>
    ask(api.GET("/api/v1/jobs/{job_id}/logs", { params: { path: { job_id: jobId }, query: { offset, limit, attempt: wanted } }, signal: gone.signal }));

  async function begin(): Promise<void> {
    try {
      const tail = await read(-PIECE);
      text.value = tail.text;
      attempt.value = tail.attempt;
      start.value = tail.offset;
      const query = wanted === null ? "" : `?attempt=${wanted}`;
      stop = follow(`/api/v1/jobs/${jobId}/logs/stream${query}`, {
        lastId: `${tail.attempt}:${tail.next_offset}`,
        onMessage: (message) => {
          const part = JSON.parse(message.data) as { text: string; attempt: number };
          text.value = (text.value + part.text).slice(-MOST_CHARACTERS);
        },
        onEnd: () => (over.value = true),
      });
    } catch (thrown) {
      if (!gone.signal.aborted) problem.value = asProblem(thrown);
    }
  }

  async function earlier(): Promise<void> {
    const offset = Math.max(0, start.value - PIECE);
    try {
      const part = await read(offset, start.value - offset);
      text.value = part.text + text.value;
      start.value = offset;
    } catch (thrown) {
      problem.value = asProblem(thrown);
    }
  }

  onScopeDispose(() => {
    gone.abort();
    stop?.();
  });
  void begin();
  return { text, attempt, start, over, problem, earlier };
}

/** Without the codes by which a terminal is coloured. */
export function plain(text: string): string {
  return text.replace(/\u001b\[[0-9;?]*[A-Za-z]/g, "").replace(/\r(?!\n)/g, "\n");
}
