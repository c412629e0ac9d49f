// A recipe handed over from another screen (planner, job) to the form of a new job.
import type { Router } from "vue-router";
import type { Schemas } from "@/api/client";

export type Recipe = Schemas["Recipe"];
const KEY = "ltp.draft";

/** Go to the form with a recipe in it. */
export function propose(router: Router, recipe: unknown): void {
  sessionStorage.setItem(KEY, JSON.stringify(recipe));
  void router.push({ path: "/jobs/new", query: { draft: "1" } });
}

export function proposed(): unknown {
  const text = sessionStorage.getItem(KEY);
  return text === null ? null : JSON.parse(text);
}
