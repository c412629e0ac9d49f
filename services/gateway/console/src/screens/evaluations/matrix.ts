// Evaluations as a matrix of models by suites. Pure.
import type { Schemas } from "@/api/client";

export type Evaluation = Schemas["EvaluationRecord"];
export interface Suite {
  key: string;
  label: string;
}
export interface ModelLine {
  key: string;
  label: string;
  job: string | null;
  step: number | null;
  /** The newest evaluation of each suite. */
  cells: Record<string, Evaluation>;
}

export function modelName(one: Evaluation, jobs: Map<string, string>): string {
  const job = one.job_id ? (jobs.get(one.job_id) ?? one.job_id.slice(0, 13)) : null;
  if (job !== null && one.step !== null && one.step !== undefined) return `${job} · ${one.step}`;
  return one.model.split("/").filter(Boolean).slice(-2).join("/") || one.model;
}
export function suiteOf(one: Evaluation): Suite {
  const { dataset } = one;
  const name = dataset ? `${dataset.name} · ${dataset.split_name}` : (one.name ?? "–");
  return { key: `${dataset?.name ?? one.name ?? ""}|${dataset?.version ?? ""}|${dataset?.split_name ?? ""}|${one.scorer}`, label: `${name} · ${one.scorer}` };
}

/** Rows are models (checkpoints of one job together, by step), columns suites; `all` is newest first. */
export function matrix(all: Evaluation[], jobs: Map<string, string>): { lines: ModelLine[]; suites: Suite[] } {
  const lines = new Map<string, ModelLine>();
  const suites = new Map<string, Suite>();
  for (const one of all) {
    const suite = suiteOf(one);
    suites.set(suite.key, suite);
    const key = one.checkpoint_id ?? one.model;
    const line = lines.get(key) ?? { key, label: modelName(one, jobs), job: one.job_id ?? null, step: one.step ?? null, cells: {} };
    line.cells[suite.key] ??= one;
    lines.set(key, line);
  }
  const rank = (line: ModelLine): string => `${line.job && line.step !== null ? (jobs.get(line.job) ?? line.job) : ""}`;
  const sorted = [...lines.values()].sort((a, b) => rank(a).localeCompare(rank(b)) || (a.step ?? -1) - (b.step ?? -1) || a.label.localeCompare(b.label));
  return { lines: sorted, suites: [...suites.values()].sort((a, b) => a.label.localeCompare(b.label)) };
}

export function done(one: Evaluation): number {
  const { right = 0, wrong = 0, unparsable = 0, without_reference = 0, errors = {} } = one.progress ?? {};
  return right + wrong + unparsable + without_reference + Object.values(errors).reduce((sum, count) => sum + count, 0);
}
export const OVER = ["completed", "failed", "cancelled"];
