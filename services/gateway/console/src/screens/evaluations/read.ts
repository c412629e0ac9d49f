// Reads evaluations page by page, newest first, up to as many as a screen can show, and what their jobs are called.
import { api, ask } from "@/api/client";
import type { Evaluation } from "./matrix";

const PAGE = 200;
const PAGES = 5;

/** The names of the newest jobs, by id. */
export async function readJobNames(signal: AbortSignal): Promise<Map<string, string>> {
  const { jobs } = await ask(api.GET("/api/v1/jobs", { params: { query: { limit: 1000 } }, signal }));
  return new Map(jobs.map((job) => [job.job_id, job.name]));
}

export async function readEvaluations(signal: AbortSignal, job: string | null = null): Promise<Evaluation[]> {
  const found: Evaluation[] = [];
  for (let page = 0; page < PAGES; page += 1) {
    const query = { job_id: job, limit: PAGE, cursor: found.at(-1)?.evaluation_id ?? null };
    const { evaluations } = await ask(api.GET("/api/v1/evaluations", { params: { query }, signal }));
    found.push(...evaluations);
    if (evaluations.length < PAGE) break;
  }
  return found;
}
