// Every string exists in both languages with the same values to fill in, and every key that a source names is there.
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";

const root = new URL("..", import.meta.url).pathname;

function flat(value: object, prefix: string): [string, string][] {
  return Object.entries(value).flatMap(([key, inner]): [string, string][] =>
    typeof inner === "string" ? [[`${prefix}${key}`, inner]] : flat(inner as object, `${prefix}${key}.`),
  );
}
function strings(language: string): Map<string, string> {
  const read = (path: string): object => JSON.parse(readFileSync(join(root, path), "utf8")) as object;
  const screens = readdirSync(join(root, "screens")).flatMap((name) => flat(read(`screens/${name}/${language}.json`), `${name}.`));
  return new Map([...flat(read(`i18n/${language}.json`), ""), ...screens]);
}
const [en, zh] = [strings("en"), strings("zh")];
// Descriptions and names of recipe keys are the schema's own in English; so are names of queues, parameters and what events hold.
const missing = (from: Map<string, string>, to: Map<string, string>): string[] => [...from.keys()].filter((key) => !to.has(key) && !/^(newjob\.(fields|names)|queues\.names|surgery\.parameters|job\.event(Facts|Values))\./.test(key));

it("has the same keys in English and Chinese", () => {
  expect(missing(en, zh)).toEqual([]);
  expect(missing(zh, en)).toEqual([]);
});

it("fills in the same values in both", () => {
  const names = (text: string): string[] => [...text.matchAll(/\{(\w+)\}/g)].map(([, name]) => name ?? "").sort();
  const differing = [...en].filter(([key, text]) => zh.has(key) && names(text).join() !== names(zh.get(key) ?? "").join()).map(([key]) => key);
  expect(differing).toEqual([]);
});

it("knows every key that a source names", () => {
  const sources = (readdirSync(root, { recursive: true }) as string[]).filter((path) => /\.(vue|ts)$/.test(path) && !path.endsWith(".test.ts"));
  const named = sources.flatMap((path) => [...readFileSync(join(root, path), "utf8").matchAll(/\b(?:t|te)\(\s*"([\w.-]+)"/g)].map(([, key]) => key ?? ""));
  expect(named.length).toBeGreaterThan(100);
  expect([...new Set(named)].filter((key) => !en.has(key))).toEqual([]);
});

it("says in Chinese what every code of the platform means", () => {
  const repository = join(root, "../../../..");
  const codes = new Map(flat(JSON.parse(readFileSync(join(root, "i18n/codes.zh.json"), "utf8")) as object, ""));
  const problems = [...readFileSync(join(repository, "libs/ltp/core/errors.py"), "utf8").matchAll(/^ {4}[A-Z_]+ = "(\w+)"/gm)].map(([, code]) => code ?? "");
  const api = JSON.parse(readFileSync(join(repository, "proto/openapi.json"), "utf8")) as { components: { schemas: { Reason: { properties: { cause: { enum: string[] } } } } } };
  const causes = api.components.schemas.Reason.properties.cause.enum;
  const sayings = [...readFileSync(join(repository, "libs/ltp/planning/sayings.py"), "utf8").matchAll(/^ {4}"(\w+)": "(.*)",$/gm)];
  const cautions = [...readFileSync(join(repository, "services/evaluator/cautions.py"), "utf8").matchAll(/^ {4}"(\w+)": "/gm)].map(([, code]) => code ?? "");
  const rules = [...readFileSync(join(repository, "libs/ltp/planning/constraints.py"), "utf8").matchAll(/^@_rule\((\d+),/gm)].map(([, number]) => number ?? "");
  expect(problems.length).toBeGreaterThan(50);
  expect(sayings.length).toBeGreaterThan(40);
  expect(sayings.filter(([, code]) => !codes.has(`plans.${code ?? ""}`)).map(([, code]) => code)).toEqual([]);
  // Nothing is lost in translation but a rule's English name, which its number stands for.
  const filled = (text: string): string[] => [...text.matchAll(/\{(\w+)\}/g)].map(([, name]) => name ?? "").filter((name) => name !== "name" && name !== "rule").sort();
  expect(sayings.filter(([, code, text]) => filled(text ?? "").join() !== filled(codes.get(`plans.${code ?? ""}`) ?? "").join()).map(([, code]) => code)).toEqual([]);
  expect(cautions.length).toBeGreaterThan(5);
  expect(cautions.filter((code) => !codes.has(`cautions.${code}`))).toEqual([]);
  expect(rules.filter((number) => !codes.has(`rules.${number}`))).toEqual([]);
  expect(problems.filter((code) => !codes.has(`problems.${code}`))).toEqual([]);
  expect(causes.filter((cause) => !codes.has(`reasons.${cause}`))).toEqual([]);
});

it("names in Chinese every key of a recipe, every kind of stage and every event", () => {
  const repository = join(root, "../../../..");
  const { schemas } = (JSON.parse(readFileSync(join(repository, "proto/openapi.json"), "utf8")) as { components: { schemas: Record<string, { properties: object } | undefined> } }).components;
  const sections = ["Recipe", "Checkpoints", "Critic", "DatasetSource", "EvaluationSpec", "ModelSource", "Preference", "Reinforcement", "Resources", "Training"];
  const keys = sections.flatMap((name) => Object.keys(schemas[name]?.properties ?? {}));
  expect(keys.length).toBeGreaterThan(60);
  expect(keys.filter((key) => !zh.has(`newjob.names.${key}`))).toEqual([]);
  const kinds = [...readFileSync(join(repository, "libs/ltp/contracts/stages.py"), "utf8").matchAll(/^ {4}"(\w+)": StageKind\(/gm)].map(([, kind]) => kind ?? "");
  expect(kinds.length).toBeGreaterThan(5);
  expect(kinds.filter((kind) => !zh.has(`pipelines.stageKinds.${kind}`))).toEqual([]);
  const events = readdirSync(join(repository, "proto/events")).map((file) => file.split("."));
  expect(events.length).toBeGreaterThan(80);
  expect(events.filter(([, noun, , verb]) => !zh.has(`frame.event.nouns.${noun ?? ""}`) || !zh.has(`frame.event.verbs.${verb ?? ""}`))).toEqual([]);
});
