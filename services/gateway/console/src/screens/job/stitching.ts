// How lines of metrics become curves: one for each key and attempt. Pure.
import type { Curve } from "@/components/curves";
import type { StepLine } from "./metrics";

/** What people look at first, and the names verl gives it. */
export const GROUPS: { name: string; keys: RegExp }[] = [
  { name: "loss", keys: /^(train\/loss|val\/loss|actor\/(pg_loss|loss)|critic\/vf_loss|dpo\/loss)$/ },
  { name: "reward", keys: /^(critic\/(score|rewards)\/mean|val-core\/.*|reward\/mean|dpo\/(reward_)?margin.*|.*accurac(y|ies))$/ },
  { name: "kl", keys: /(^|[/_])(kl|kl_loss|ppo_kl|reward_kl_penalty)$/ },
  { name: "entropy", keys: /(^|\/)entropy(_loss)?$/ },
  { name: "gradNorm", keys: /(^|\/)grad_norm$/ },
  { name: "length", keys: /^(response_length|prompt_length)\/mean$/ },
];

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
