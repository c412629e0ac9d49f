// Who made what of what: one step around any artefact, from the records of jobs, evaluations, operations, datasets and pipelines.
import { api, ask, type Schemas } from "@/api/client";
import type { GraphEdge, GraphNode } from "@/components/GraphView.vue";
import { short } from "@/components/format";
import { readEvaluations } from "@/screens/evaluations/read";

export const KINDS = ["dataset", "job", "model", "evaluation", "operation", "artefact"] as const;
export type Kind = (typeof KINDS)[number];
export interface Artefact {
  kind: Kind;
  id: string;
}
export interface Graph {
  nodes: GraphNode[];
  edges: GraphEdge[];
}
export interface Records {
  jobs: Schemas["Job"][];
  versions: Schemas["VersionDetail"][];
  operations: Schemas["OperationView"][];
  evaluations: Schemas["EvaluationRecord"][];
  checkpoints: Map<string, Schemas["Checkpoint"][]>;
}

export const key = ({ kind, id }: Artefact): string => `${kind}:${id}`;
export function unkey(text: string): Artefact {
  const at = text.indexOf(":");
  return { kind: text.slice(0, at) as Kind, id: text.slice(at + 1) };
}

/** Everything the console may know of; checkpoints only of the jobs that are asked for. */
export async function readRecords(signal: AbortSignal): Promise<Records> {
  const [jobs, versions, operations, evaluations] = await Promise.all([
    ask(api.GET("/api/v1/jobs", { params: { query: { limit: 200 } }, signal })),
    ask(api.GET("/api/v1/datasets/versions", { params: { query: { limit: 500 } }, signal })),
    ask(api.GET("/api/v1/operations", { params: { query: { limit: 500 } }, signal })),
    readEvaluations(signal),
  ]);
  const withModels = jobs.jobs.filter(({ checkpoint_step }) => checkpoint_step !== null).slice(0, 50);
  const checkpoints = await Promise.all(
    withModels.map(async ({ job_id }) => [job_id, await ask(api.GET("/api/v1/jobs/{job_id}/checkpoints", { params: { path: { job_id } }, signal }))] as const),
  );
  return { jobs: jobs.jobs, versions: versions.versions, operations, evaluations, checkpoints: new Map(checkpoints) };
}

/** Paths in a recipe, however deep. */
function parents(recipe: unknown): string[] {
  if (typeof recipe === "string") return recipe.startsWith("/") ? [recipe.split("+")[0] ?? recipe] : [];
  if (typeof recipe !== "object" || recipe === null) return [];
  return [...new Set(Object.values(recipe).flatMap(parents))];
}

/** The whole graph: nodes by key, edges from what was used to what was made. */
export function whole(records: Records): Graph {
  const nodes = new Map<string, GraphNode>();
  const edges: GraphEdge[] = [];
  const add = (kind: Kind, id: string, title: string, detail?: string, state?: string): string => {
    const name = key({ kind, id });
    if (!nodes.has(name) || title !== id) nodes.set(name, { id: name, title, detail, state });
    return name;
  };
  const model = (path: string, title?: string): string => {
    const name = key({ kind: "model", id: path });
    if (!nodes.has(name)) nodes.set(name, { id: name, title: title ?? path.split("/").filter(Boolean).slice(-2).join("/") });
    return name;
  };
  const dataset = (name: string, version: string): string => add("dataset", `${name}@${version}`, name, short(version));
  for (const one of records.versions) {
    const made = dataset(one.name, one.version);
    for (const parent of one.parents) {
      const from = records.versions.find(({ version, name }) => version === parent || `${name}@${version}` === parent);
      if (from) edges.push({ from: dataset(from.name, from.version), to: made, label: one.reason.slice(0, 24) });
    }
  }
  for (const job of records.jobs) {
    const here = add("job", job.job_id, job.name, job.recipe.algorithm, job.state);
    edges.push({ from: dataset(job.dataset.name, job.dataset.version), to: here }, { from: model(job.recipe.model.path), to: here });
    for (const { exported } of records.checkpoints.get(job.job_id) ?? []) {
      if (exported) edges.push({ from: here, to: model(exported.path, `${job.name} · ${exported.step}`) });
    }
  }
  for (const one of records.operations) {
    const here = add("operation", one.operation_id, one.name, one.kind, one.state);
    for (const path of parents(one.spec.recipe)) edges.push({ from: model(path), to: here });
    const made = (one.result as { path?: string } | null)?.path;
    if (made) edges.push({ from: here, to: model(made, one.name) });
  }
  for (const one of records.evaluations) {
    const score = one.result?.accuracy ? `${Math.round(one.result.accuracy.value * 1000) / 10} %` : undefined;
    const here = add("evaluation", one.evaluation_id, one.name ?? one.scorer, score, one.state);
    if (one.model.startsWith("/")) edges.push({ from: model(one.model), to: here });
    if (one.dataset) edges.push({ from: dataset(one.dataset.name, one.dataset.version), to: here });
  }
  return { nodes: [...nodes.values()], edges };
}

/** What lies within so many steps of an artefact, up and down. */
export function around(graph: Graph, centre: string, steps: number): Graph {
  const near = new Set([centre]);
  for (const [from, to] of [["from", "to"], ["to", "from"]] as const) {
    let edge = [centre];
    for (let step = 0; step < steps && edge.length > 0; step += 1) {
      const next = graph.edges.filter((one) => edge.includes(one[from])).map((one) => one[to]);
      edge = [...new Set(next)].filter((one) => !near.has(one));
      for (const one of edge) near.add(one);
    }
  }
  return { nodes: graph.nodes.filter(({ id }) => near.has(id)), edges: graph.edges.filter(({ from, to }) => near.has(from) && near.has(to)) };
}

/** A pipeline's artefact and all that it was made from, as recorded when it was made. */
export async function artefacts(digest: string, signal: AbortSignal): Promise<Graph> {
  const lineage = await ask(api.GET("/api/v1/artefacts/{digest}/lineage", { params: { path: { digest } }, signal }));
  const name = (one: string): string => key({ kind: "artefact", id: one });
  const known = new Map(lineage.artefacts.map((made) => [made.digest, { id: name(made.digest), title: made.stage, detail: `${made.kind} ${short(made.digest)}` }]));
  const edges = lineage.artefacts.flatMap((made) => Object.entries(made.inputs).map(([label, from]) => ({ from: name(from), to: name(made.digest), label })));
  for (const made of lineage.artefacts) for (const from of Object.values(made.inputs)) if (!known.has(from)) known.set(from, { id: name(from), title: short(from), detail: "" });
  return { nodes: [...known.values()], edges };
}
