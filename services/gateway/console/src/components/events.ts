// Names of facts, and what they are about. The name of a fact in the reader's language: `ltp.job.v1.pause-requested` as "job pause requested".
import { useI18n } from "vue-i18n";
import type { Schemas } from "@/api/client";

/** What names an event; a noun or a verb that has no translation yet is shown as it is. */
export function useEventName(): (subject: string) => string {
  const { t, te } = useI18n();
  const word = (kind: "nouns" | "verbs", name: string): string => (te(`frame.event.${kind}.${name}`) ? t(`frame.event.${kind}.${name}`) : name);
  return (subject) => {
    const [, noun = subject, , verb = ""] = subject.split(".");
    return t("frame.event.title", { noun: word("nouns", noun), verb: word("verbs", verb) });
  };
}

/** The names that events tell of runs, operations and evaluations, by id: not every event names what it is about. */
export function namesTold(events: Schemas["EventLine"][]): Map<string, string> {
  const text = (value: unknown): string => (typeof value === "string" ? value : "");
  const told = events.flatMap(({ data }): [string, string][] => {
    const name = text(data.name) || text((data.spec as { name?: unknown } | undefined)?.name);
    const id = text(data.run_id) || text(data.operation_id) || text(data.evaluation_id);
    return name && id && !data.stage ? [[id, name]] : [];
  });
  return new Map(told);
}

/** What an event is about, as a name and where it is shown; null where nothing shows it. `names` are those that are known, by id. */
export function eventTarget({ subject, job_id, about, data }: Schemas["EventLine"], names: Map<string, string>): { to: string; text: string } | null {
  const noun = subject.split(".")[1] ?? "";
  const word = (key: string, of: Record<string, unknown> = data): string => (typeof of[key] === "string" ? of[key] : "");
  const [name, run, operation, evaluation] = [word("name"), word("run_id"), word("operation_id"), word("evaluation_id")];
  const to = (path: string, id: string, text: string): { to: string; text: string } => ({ to: `${path}${encodeURIComponent(id)}`, text: text || id.slice(0, 13) });
  if (job_id) return { to: `/jobs/${job_id}?tab=events`, text: names.get(job_id) ?? job_id.slice(0, 13) };
  if (noun === "dataset" && name) return to("/datasets/", name, name);
  if ((noun === "pipeline" || noun === "stage") && run) return to("/pipelines/", run, word("stage") || name || (names.get(run) ?? ""));
  if (noun === "operation" && operation) return to("/surgery/", operation, name || (names.get(operation) ?? ""));
  if (noun === "evaluation" && evaluation) return to("/evaluations/", evaluation, name || (names.get(evaluation) ?? word("model").split("/").at(-1) ?? ""));
  if (noun === "host" && about) return to("/settings?tab=hosts#", about, about);
  return null;
}
