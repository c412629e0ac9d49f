import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { Turns } from "@/api/turns";

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

const forEver = (): AbortSignal => new AbortController().signal;

/** A stream that follows for ever, and notes when it is open. */
async function stream(turns: Turns, name: string, open: Set<string>, seen: Set<string>): Promise<never> {
  for (;;) {
    const turn = await turns.take(forEver());
    open.add(name);
    seen.add(name);
    turn?.begin();
    await new Promise<void>((resolve) => turn?.over.addEventListener("abort", () => resolve()));
    open.delete(name);
    turn?.end();
  }
}

it("lets every stream speak, and never more than there are places", async () => {
  const [turns, open, seen] = [new Turns(3, 2000), new Set<string>(), new Set<string>()];
  for (let index = 0; index < 9; index += 1) void stream(turns, String(index), open, seen);
  for (let second = 0; second < 12; second += 1) {
    await vi.advanceTimersByTimeAsync(1000);
    expect(open.size).toBeLessThanOrEqual(3);
  }
  expect(seen.size).toBe(9);
});

it("disturbs no stream while there is room", async () => {
  const [turns, open, seen] = [new Turns(3, 2000), new Set<string>(), new Set<string>()];
  const held = await turns.take(forEver());
  held?.begin();
  void stream(turns, "other", open, seen);
  await vi.advanceTimersByTimeAsync(60_000);
  expect(held?.over.aborted).toBe(false);
  expect([...open]).toEqual(["other"]);
});

it("passes a place on when who waited for it has left", async () => {
  const turns = new Turns(1, 2000);
  const [first, left, later] = [await turns.take(forEver()), new AbortController(), turns.take(new AbortController().signal)];
  const gone = turns.take(left.signal);
  left.abort();
  expect(await gone).toBeNull();
  first?.end();
  expect(await later).not.toBeNull();
});
