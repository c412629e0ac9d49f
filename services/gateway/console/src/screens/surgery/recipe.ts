// The recipe of an operation, made of what was chosen in the form. Pure.
import type { Schemas } from "@/api/client";

export type Method = Schemas["MergeMethod"];
export type Parameter = Schemas["MergeParameter"];
export type Kind = "merge" | "average";
export type Setting = number | boolean | null;
export interface Choice {
  kind: Kind;
  method: string;
  models: string[];
  base: string | null;
  /** Of the whole merge. */
  shared: Record<string, Setting>;
  /** Of each model, by its path. */
  each: Record<string, Record<string, Setting>>;
}
export const AVERAGES = ["uniform", "last_k", "ema", "weighted", "interpolate"] as const;
/** The one setting that a way of averaging takes. */
export const AVERAGE_SETTING: Record<string, Parameter> = {
  last_k: { name: "k", kind: "integer", scope: "shared", default: 3, low: 1, high: null, required: true },
  ema: { name: "decay", kind: "number", scope: "shared", default: 0.9, low: 0.001, high: 0.999, required: true },
  interpolate: { name: "alpha", kind: "number", scope: "shared", default: 0.5, low: 0, high: 1, required: true },
};

function said(settings: Record<string, Setting> | undefined, names: string[]): Record<string, Setting> {
  return Object.fromEntries(names.flatMap((name) => (settings?.[name] === undefined || settings[name] === null ? [] : [[name, settings[name]]])));
}

/** What POST /operations takes as `recipe`. */
export function recipe(choice: Choice, method: Method | undefined): Record<string, unknown> {
  if (choice.kind === "average") {
    const setting = AVERAGE_SETTING[choice.method]?.name;
    const own = setting === undefined ? {} : said(choice.shared, [setting]);
    const weights = choice.method === "weighted" ? { weights: choice.models.map((model) => choice.each[model]?.weight ?? 1) } : {};
    return { method: choice.method, models: choice.models, ...own, ...weights };
  }
  const parameters = method?.parameters ?? [];
  const shared = said(choice.shared, parameters.filter(({ scope }) => scope === "shared").map(({ name }) => name));
  const needs = method?.needs_base ?? false;
  const base = needs ? choice.base : null;
  const models = base !== null && method?.counts_base && !choice.models.includes(base) ? [base, ...choice.models] : choice.models;
  return {
    merge_method: choice.method,
    ...(base === null ? {} : { base_model: base }),
    models: models.map((model) => {
      const scopes = model === base ? ["input"] : ["input", "non_base"];
      const own = said(choice.each[model], parameters.filter(({ scope }) => scopes.includes(scope)).map(({ name }) => name));
      return Object.keys(own).length > 0 ? { model, parameters: own } : { model };
    }),
    ...(Object.keys(shared).length > 0 ? { parameters: shared } : {}),
  };
}
