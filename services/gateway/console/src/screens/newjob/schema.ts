// The recipe's JSON Schema, made easy to draw: references followed, "or null" taken off. Pure.
import schemas from "@/api/recipe.schema.json";

export interface Schema {
  $ref?: string;
  type?: string;
  enum?: string[];
  const?: string;
  anyOf?: Schema[];
  oneOf?: Schema[];
  properties?: Record<string, Schema>;
  additionalProperties?: Schema | boolean;
  required?: string[];
  items?: Schema;
  default?: unknown;
  description?: string;
  minimum?: number;
  maximum?: number;
  exclusiveMinimum?: number;
  exclusiveMaximum?: number;
}
export type Kind = "section" | "choice" | "whole" | "real" | "truth" | "text" | "free";

const all = schemas as unknown as Record<string, Schema>;

/** What a field is, with what the place that refers to it says of it. */
export function resolved(schema: Schema): Schema {
  const { $ref, anyOf, ...rest } = schema;
  if ($ref !== undefined) return { ...resolved(all[$ref.split("/").at(-1) ?? ""] ?? {}), ...rest };
  const some = anyOf?.filter(({ type }) => type !== "null") ?? [];
  if (some.length === 1 && some[0]) return { ...resolved(some[0]), ...rest };
  return schema;
}

export function kindOf(schema: Schema): Kind {
  if (schema.properties) return "section";
  if (schema.enum) return "choice";
  if (schema.type === "integer") return "whole";
  if (schema.type === "number") return "real";
  if (schema.type === "boolean") return "truth";
  if (schema.type === "string") return "text";
  return "free";
}

export const RECIPE: Schema = resolved({ $ref: "Recipe" });

/** Which sections an algorithm has beside those that every recipe has. */
export function sectionsOf(algorithm: string): string[] {
  const always = ["model", "dataset", "training", "resources", "evaluation"];
  if (algorithm === "sft") return always;
  if (algorithm === "dpo") return [...always, "preference"];
  return algorithm === "ppo" ? [...always, "reinforcement", "critic"] : [...always, "reinforcement"];
}

/** Shown at once; the rest is behind "more settings". */
const COMMON = [
  "model.path", "dataset.name", "training.steps", "training.batch_size", "training.learning_rate", "training.max_length", "training.save_every",
  "training.lora_rank", "resources.device_kind", "resources.devices", "evaluation.scorer", "evaluation.max_rows", "evaluation.split",
  "reinforcement.samples_per_prompt", "reinforcement.scorer", "reinforcement.max_response_length", "reinforcement.temperature",
  "reinforcement.kl_loss_coefficient", "preference.beta", "preference.loss", "critic.learning_rate",
];
export function isCommon(path: string): boolean {
  return COMMON.includes(path);
}
/** The order of a section's fields: the common ones first, as people think of them, then the rest by name. */
export function rank(path: string): number {
  const place = COMMON.indexOf(path);
  return place < 0 ? COMMON.length : place;
}
