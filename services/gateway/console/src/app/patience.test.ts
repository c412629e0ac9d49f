import { expect, it } from "vitest";
import { patiently } from "@/app/patience";

it("tries again what a broken connection stopped", async () => {
  let tries = 0;
  const load = patiently(() => ((tries += 1) < 3 ? Promise.reject(new TypeError("broken")) : Promise.resolve("screen")), [1, 1, 1]);
  expect([await load(), tries]).toEqual(["screen", 3]);
});

it("gives up in the end, with the reason", async () => {
  let tries = 0;
  const load = patiently(() => ((tries += 1), Promise.reject(new TypeError("gone"))), [1, 1]);
  await expect(load()).rejects.toThrow("gone");
  expect(tries).toBe(3);
});
