// The lines of metrics of a job, read in large pieces, then followed.
import { onScopeDispose, shallowRef, type ShallowRef } from "vue";
import { api, ask, type Schemas } from "@/api/client";
import { asProblem, type Problem } from "@/api/problem";
import { follow } from "@/api/stream";

export type StepLine = Schemas["StepLine"];

const PIECE = 10_000;
// New lines are drawn twice a second, however fast they come.
const DRAW_MS = 500;

export interface JobMetrics {
  lines: ShallowRef<StepLine[]>;
  problem: ShallowRef<Problem | null>;
  complete: ShallowRef<boolean>;
}

export function useMetrics(jobId: string): JobMetrics {
  const lines = shallowRef<StepLine[]>([]);
  const problem = shallowRef<Problem | null>(null);
  const complete = shallowRef(false);
  const gone = new AbortController();
  let stop: (() => void) | null = null;
  let fresh: StepLine[] = [];
  let drawing: ReturnType<typeof setTimeout> | null = null;

  function draw(): void {
    drawing = null;
    // A new array: what is computed of the same one again counts as unchanged, and no curve would move.
    lines.value = lines.value.concat(fresh);
    fresh = [];
  }

  async function begin(): Promise<void> {
    try {
      let after = 0;
      for (;;) {
        const query = { after, limit: PIECE };
        const piece = await ask(api.GET("/api/v1/jobs/{job_id}/metrics", { params: { path: { job_id: jobId }, query }, signal: gone.signal }));
        lines.value = lines.value.concat(piece);
        after = piece.at(-1)?.seq ?? after;
        if (piece.length < PIECE) break;
      }
      stop = follow(`/api/v1/jobs/${jobId}/metrics/stream`, {
        lastId: String(after),
        onMessage: (message) => {
          fresh.push(JSON.parse(message.data) as StepLine);
          drawing ??= setTimeout(draw, DRAW_MS);
        },
        onEnd: () => (complete.value = true),
      });
    } catch (thrown) {
      if (!gone.signal.aborted) problem.value = asProblem(thrown);
    }
  }

  onScopeDispose(() => {
    gone.abort();
    stop?.();
    if (drawing !== null) clearTimeout(drawing);
  });
  void begin();
  return { lines, problem, complete };
}
