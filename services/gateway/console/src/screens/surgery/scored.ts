// The exported checkpoints of a job with what they are worth, and the curve they lie on.
import { computed, type ComputedRef, type Ref } from "vue";
import { api, ask, type Schemas } from "@/api/client";
import { useResource, type Resource } from "@/live/resource";
import { readEvaluations } from "@/screens/evaluations/read";

interface Facts {
  checkpoints: { step: number; path: string }[];
  lines: Schemas["StepLine"][];
  scores: Awaited<ReturnType<typeof readEvaluations>>;
}
export interface Score {
  step: number;
  path: string;
  suite: string;
  value: number;
  low: number;
  high: number;
}
export interface ScoredCheckpoints {
  facts: Resource<Facts | null>;
  checkpoints: ComputedRef<Facts["checkpoints"]>;
  /** The newest score of each checkpoint on each suite, by step. */
  scores: ComputedRef<Score[]>;
}

export function useScoredCheckpoints(job: Ref<string>): ScoredCheckpoints {
  const facts = useResource<Facts | null>(
    async (signal) => {
      if (!job.value) return null;
      const params = { path: { job_id: job.value } };
      const [checkpoints, lines, scores] = await Promise.all([
        ask(api.GET("/api/v1/jobs/{job_id}/checkpoints", { params, signal })),
        ask(api.GET("/api/v1/jobs/{job_id}/metrics", { params: { ...params, query: { limit: 10_000 } }, signal })),
        readEvaluations(signal, job.value),
      ]);
      const here = checkpoints.flatMap(({ written, exported }) => (exported ? [{ step: written.step, path: exported.path }] : []));
      return { checkpoints: here.sort((a, b) => a.step - b.step), lines, scores };
    },
    { watch: [job], live: ["ltp.checkpoint.", "ltp.evaluation."] },
  );
  const checkpoints = computed(() => facts.data.value?.checkpoints ?? []);
  const scores = computed(() => {
    const found = new Map<string, Score>();
    // Newest first: the first of a step and suite counts.
    for (const one of facts.data.value?.scores ?? []) {
      const path = checkpoints.value.find(({ step }) => step === one.step)?.path;
      const suite = [one.dataset?.name, one.dataset?.split].filter(Boolean).join(" · ") || "–";
      const key = `${one.step} ${suite}`;
      if (path && typeof one.step === "number" && one.result?.accuracy && !found.has(key)) found.set(key, { step: one.step, path, suite, ...one.result.accuracy });
    }
    return [...found.values()].sort((a, b) => a.step - b.step);
  });
  return { facts, checkpoints, scores };
}
