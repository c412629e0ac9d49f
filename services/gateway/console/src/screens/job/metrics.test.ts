import { expect, it } from "vitest";
import type { StepLine } from "./metrics";
import { differences } from "./recipes";
import { curvesOf, resumes } from "./stitching";

function line(attempt: number, step: number, loss: number): StepLine {
  return { seq: 0, attempt, step, at: "2026-11-23T12:00:00Z", metrics: { "train/loss": loss } };
}

it("lays attempts over each other, and marks where each went on", () => {
  const lines = [line(1, 1, 5), line(1, 2, 4), line(1, 3, 3), line(2, 3, 3.1), line(2, 4, 2)];
  const curves = curvesOf(lines, ["train/loss"]);
  expect(curves.map(({ label, xs, ys }) => [label, xs, ys])).toEqual([
    ["train/loss #1", [1, 2, 3], [5, 4, 3]],
    ["train/loss #2", [3, 4], [3.1, 2]],
  ]);
  expect(resumes(lines)).toEqual([{ attempt: 2, x: 3 }]);
});

it("takes the last value of a step that was logged twice, and no step twice", () => {
  const [curve] = curvesOf([line(1, 1, 5), line(1, 1, 6), line(1, 2, NaN)], ["train/loss"]);
  expect([curve?.xs, curve?.ys]).toEqual([[1, 2], [6, null]]);
});

it("tells what changed between two recipes, key by key", () => {
  const before = { name: "a", training: { steps: 1, seed: 1 }, overrides: ["x=1"] };
  const after = { name: "a", training: { steps: 2, seed: 1, lora_rank: 8 }, overrides: ["x=1"] };
  expect(differences(before, after)).toEqual([
    { key: "training.lora_rank", before: null, after: "8" },
    { key: "training.steps", before: "1", after: "2" },
  ]);
});
