import { describe, expect, it } from "vitest";
import { aligned, positive, smoothed, summary } from "@/components/curves";

describe("smoothing", () => {
  it("keeps a constant as it is from the first point on", () => {
    for (const value of smoothed([3, 3, 3], 0.9)) expect(value).toBeCloseTo(3, 12);
  });
  it("weighs as the definition says", () => {
    const [first, second] = smoothed([1, 2], 0.5);
    expect(first).toBeCloseTo(1, 12);
    expect(second).toBeCloseTo((0.25 * 1 + 0.5 * 2) / 0.75, 12);
  });
  it("leaves gaps, and what is no number, as they are", () => {
    const found = smoothed([1, null, NaN, 1], 0.6);
    expect(found[1]).toBeNull();
    expect(found[2]).toBeNaN();
    expect(found[3]).toBeCloseTo(1, 12);
  });
});

describe("several curves on one axis", () => {
  it("meet at the union of their steps, with nothing made up between", () => {
    const [xs, a, b] = aligned([{ xs: [1, 3], ys: [10, 30] }, { xs: [2, 3], ys: [20, null] }]);
    expect(xs).toEqual([1, 2, 3]);
    expect(a).toEqual([10, undefined, 30]);
    expect(b).toEqual([undefined, 20, null]);
  });
  it("has no place for zero on a logarithmic axis", () => {
    expect(positive([1, 0, -2, null])).toEqual([1, null, null, null]);
  });
  it("says in words what is seen", () => {
    expect(summary({ label: "loss", xs: [1, 2, 3], ys: [5, null, 2] })).toEqual({ count: 2, first: 5, last: 2, least: 2, most: 5 });
    expect(summary({ label: "loss", xs: [], ys: [] })).toBeNull();
  });
});
