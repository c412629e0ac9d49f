// A recipe handed over from another screen (planner, job) to the form of a new job.
import type { Router } from "vue-router";
import { stringify } from "yaml";
import type { Schemas } from "@/api/client";
import { leaveDraft } from "@/live/draft";
import { stripped } from "@/screens/job/recipes";

export type Recipe = Schemas["Recipe"];

/** The draft of a new job: one for each job that it is made from. */
export function draftName(from: unknown): string {
  return typeof from === "string" ? `job.${from}` : "job";
}

/** Go to the form with a recipe in it. */
export function propose(router: Router, recipe: unknown): void {
  leaveDraft(draftName(null), stringify(stripped(recipe)));
  void router.push("/jobs/new");
}
