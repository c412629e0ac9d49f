import { expect, it } from "vitest";
import { optimistically } from "@/live/optimistic";

it("shows the change at once and keeps it when it is taken", async () => {
  let shown = "running";
  const seen: string[] = [];
  const apply = (): (() => void) => {
    shown = "pausing";
    return () => (shown = "running");
  };
  expect(await optimistically(apply, async () => (seen.push(shown), "answer"))).toBe("answer");
  expect([seen, shown]).toEqual([["pausing"], "pausing"]);
});

it("takes the change back when it is refused, and passes the refusal on", async () => {
  let shown = "running";
  const apply = (): (() => void) => {
    shown = "pausing";
    return () => (shown = "running");
  };
  await expect(optimistically(apply, () => Promise.reject(new Error("over")))).rejects.toThrow("over");
  expect(shown).toBe("running");
});
