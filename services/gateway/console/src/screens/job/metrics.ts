// The lines of metrics of a job, read in large pieces, then followed; and how they become curves.
import { onScopeDispose, shallowRef, triggerRef, type ShallowRef } from "vue";
import { api, ask, type Schemas } from "@/api/client";
import { asProblem, type Problem } from "@/api/problem";
import { follow } from "@/api/stream";
import type { Curve } from "@/components/curves";

export type StepLine = Schemas["StepLine"];

const PIECE = 10_000;
// New lines are drawn twice a second, however fast they come.
const DRAW_MS = 500;

/** What people look at first, and the names verl gives it. */
export const GROUPS: { name: string; keys: RegExp }[] = [
  { name: "loss", keys: /^(train\/loss|val\/loss|actor\/(pg_loss|loss)|critic\/vf_loss|dpo\/loss)$/ },
  { name: "reward", keys: /^(critic\/(score|rewards)\/mean|val-core\/.*|reward\/mean|dpo\/(reward_)?margin.*|.*accurac(y|ies))$/ },
  { name: "kl", keys: /(^|[/_])(kl|kl_loss|ppo_kl|reward_kl_penalty)$/ },
  { name: "entropy", keys: /(^|\/)entropy(_loss)?$/ },
  { name: "gradNorm", keys: /(^|\/)grad_norm$/ },
  { name: "length", keys: /^(response_length|prompt_length)\/mean$/ },
];

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
    lines.value.push(...fresh);
    fresh = [];
    triggerRef(lines);
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

export function keysOf(lines: StepLine[]): string[] {
  const keys = new Set<string>();
  for (const line of lines) for (const key in line.metrics) keys.add(key);
  return [...keys].sort();
}

/** One curve for each key and attempt: attempts lie over each other, so that a resume that went another way is seen. */
export function curvesOf(lines: StepLine[], keys: string[]): Curve[] {
  const curves = new Map<string, Curve>();
  const attempts = new Set(lines.map((line) => line.attempt));
  for (const line of lines) {
    keys.forEach((key, index) => {
      const value = line.metrics[key];
      if (value === undefined) return;
      const id = `${key}#${line.attempt}`;
      let curve = curves.get(id);
      if (curve === undefined) {
        const label = attempts.size > 1 ? `${key} #${line.attempt}` : key;
        const colour = keys.length > 1 ? index : line.attempt - 1;
        curves.set(id, (curve = { label, xs: [], ys: [], colour, dashed: keys.length > 1 && line.attempt % 2 === 0 }));
      }
      add(curve, line.step, value);
    });
  }
  return [...curves.values()];
}

/** Steps ascend within an attempt; one that was logged twice keeps its last value. */
function add(curve: Curve, step: number, value: number): void {
  const last = curve.xs.at(-1);
  if (last !== undefined && step < last) return;
  if (last === step) {
    curve.ys[curve.ys.length - 1] = value;
    return;
  }
  curve.xs.push(step);
  curve.ys.push(Number.isFinite(value) ? value : null);
}

/** Where each attempt after the first went on. */
export function resumes(lines: StepLine[]): { x: number; attempt: number }[] {
  const firsts = new Map<number, number>();
  for (const line of lines) if (!firsts.has(line.attempt)) firsts.set(line.attempt, line.step);
  return [...firsts].filter(([attempt]) => attempt > 1).map(([attempt, x]) => ({ attempt, x }));
}
