// The list of jobs, read page by page, changed in place by events, and what may be done to a job.
import { onScopeDispose, ref, shallowRef, triggerRef, watch, type Ref, type ShallowRef } from "vue";
import { api, ask, type Schemas } from "@/api/client";
import { asProblem, isAbort, type Problem } from "@/api/problem";
import { hear, onReturn } from "@/live/connection";

export type Job = Schemas["Job"];
export type JobState = Job["state"];
export type JobAction = "pause" | "resume" | "cancel";

/** What the filter of states holds when it filters nothing. */
export const ANY = "any";
/** Columns by which the API sorts its pages. */
export const SORTED_BY_API = { name: "name", state: "state", submitted_at: "submitted_at" } as const;
type Sort = (typeof SORTED_BY_API)[keyof typeof SORTED_BY_API];
export const STATES: JobState[] = ["submitted", "planned", "queued", "running", "paused", "succeeded", "failed", "cancelled"];
const OVER: JobState[] = ["succeeded", "failed", "cancelled"];

export function isOver(job: Job): boolean {
  return OVER.includes(job.state);
}

/** Whether the gateway would take an action on a job now. */
export function allows(job: Job, action: JobAction): boolean {
  if (isOver(job) || job.requested === "cancel") return false;
  if (action === "pause") return job.state !== "paused" && job.requested !== "pause";
  if (action === "resume") return job.state === "paused" || job.requested === "pause";
  return true;
}

export function act(job: Job, action: JobAction): Promise<Schemas["JobAnswer"]> {
  const params = { path: { job_id: job.job_id } };
  if (action === "pause") return ask(api.POST("/api/v1/jobs/{job_id}/pause", { params }));
  if (action === "resume") return ask(api.POST("/api/v1/jobs/{job_id}/resume", { params }));
  return ask(api.POST("/api/v1/jobs/{job_id}/cancel", { params }));
}

export interface JobList {
  jobs: ShallowRef<Job[]>;
  problem: ShallowRef<Problem | null>;
  loading: Ref<boolean>;
  asOf: ShallowRef<Date | null>;
  whole: Ref<boolean>;
  reload: () => Promise<void>;
  more: () => Promise<void>;
  put: (job: Job) => void;
}

const PAGE = 500;
// One by one while few changed; a flood is answered by reading the list anew.
const SINGLY = 10;
const SETTLE_MS = 300;

export function useJobs(state: Ref<string>, project: Ref<string>, sort: Ref<Sort | `-${Sort}` | undefined>): JobList {
  const jobs = shallowRef<Job[]>([]);
  const problem = shallowRef<Problem | null>(null);
  const loading = ref(false);
  const asOf = shallowRef<Date | null>(null);
  const whole = ref(false);
  let cursor: string | null = null;
  let reading: AbortController | null = null;

  async function read(from: string | null): Promise<void> {
    reading?.abort();
    const mine = (reading = new AbortController());
    loading.value = true;
    try {
      const query = { limit: PAGE, cursor: from, state: state.value === ANY ? null : (state.value as JobState), project: project.value || null, sort: sort.value };
      const page = await ask(api.GET("/api/v1/jobs", { params: { query }, signal: mine.signal }));
      jobs.value = from === null ? page.jobs : [...jobs.value, ...page.jobs];
      cursor = page.next_cursor;
      whole.value = cursor === null;
      problem.value = null;
      asOf.value = new Date();
    } catch (thrown) {
      if (!mine.signal.aborted && !isAbort(thrown)) problem.value = asProblem(thrown);
    } finally {
      if (reading === mine) loading.value = false;
    }
  }

  function put(job: Job): void {
    const at = jobs.value.findIndex(({ job_id }) => job_id === job.job_id);
    const fits = (state.value === ANY || job.state === state.value) && (!project.value || job.options.project === project.value);
    if (at >= 0 && fits) jobs.value[at] = job;
    else if (at >= 0) jobs.value.splice(at, 1);
    else if (fits) jobs.value.unshift(job);
    asOf.value = new Date();
    triggerRef(jobs);
  }

  const reload = (): Promise<void> => read(null);
  const more = async (): Promise<void> => {
    if (!whole.value && !loading.value) await read(cursor);
  };

  const changed = new Set<string>();
  let soon: ReturnType<typeof setTimeout> | null = null;
  async function catchUp(): Promise<void> {
    soon = null;
    const ids = [...changed];
    changed.clear();
    if (ids.length > SINGLY) return reload();
    for (const job_id of ids) {
      const job = await ask(api.GET("/api/v1/jobs/{job_id}", { params: { path: { job_id } } })).catch(() => null);
      if (job !== null) put(job);
    }
  }
  const ends = [
    hear((event) => {
      if (event.job_id === null || !/^ltp\.(job|checkpoint)\./.test(event.subject)) return;
      changed.add(event.job_id);
      soon ??= setTimeout(() => void catchUp(), SETTLE_MS);
    }),
    onReturn(() => void reload()),
  ];
  onScopeDispose(() => {
    for (const end of ends) end();
    reading?.abort();
    if (soon !== null) clearTimeout(soon);
  });
  watch([state, project, sort], () => void reload(), { immediate: true });
  return { jobs, problem, loading, asOf, whole, reload, more, put };
}
