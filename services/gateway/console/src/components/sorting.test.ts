import { describe, expect, it } from "vitest";
import { sorted } from "./sorting";

describe("the order of rows", () => {
  const rows = [{ v: 10 }, { v: null }, { v: 9 }, { v: 100 }];
  it("is by size, with nothing at the end both ways", () => {
    expect(sorted(rows, "v", "ascending").map(({ v }) => v)).toEqual([9, 10, 100, null]);
    expect(sorted(rows, "v", "descending").map(({ v }) => v)).toEqual([100, 10, 9, null]);
  });
  it("counts numbers within words, and leaves the rows as they were", () => {
    const named = [{ v: "job-10" }, { v: "job-9" }];
    expect(sorted(named, "v", "ascending").map(({ v }) => v)).toEqual(["job-9", "job-10"]);
    expect(named[0]?.v).toBe("job-10");
  });
});
