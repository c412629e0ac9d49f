// The arithmetic of curves: smoothing, and bringing several onto the one axis that uPlot draws on. Pure.
export interface Curve {
  label: string;
  /** Ascending: a step, or seconds since 1970. */
  xs: number[];
  /** As many as xs; null is a gap. */
  ys: (number | null)[];
  /** Index into the palette, so that the attempts of one metric can share a colour. */
  colour?: number;
  dashed?: boolean;
  /** Fills down to the curve of this label: a band between a lower and an upper curve. */
  fillTo?: string;
  /** Drawn as it is, whatever the smoothing (bounds, limits). */
  plain?: boolean;
}

export interface Mark {
  x: number;
  label: string;
  kind: "checkpoint" | "alarm" | "resume";
}

/**
 * The exponential moving average with its start corrected (D. Kingma and J. Ba 2015, arXiv:1412.6980, section 3), as TensorBoard draws it.
 * `weight` is in [0, 1): 0 changes nothing. Gaps and what is not finite stay as they are.
 */
export function smoothed(values: (number | null)[], weight: number): (number | null)[] {
  if (weight <= 0) return values;
  let average = 0;
  let seen = 0;
  return values.map((value) => {
    if (value === null || !Number.isFinite(value)) return value;
    average = weight * average + (1 - weight) * value;
    seen += 1;
    return average / (1 - weight ** seen);
  });
}

/** On a logarithmic axis only positive values have a place. */
export function positive(values: (number | null)[]): (number | null)[] {
  return values.map((value) => (value !== null && value > 0 ? value : null));
}

/** All curves over the union of their xs; undefined where a curve has no point, which uPlot draws across. */
export function aligned(curves: Pick<Curve, "xs" | "ys">[]): [number[], ...(number | null | undefined)[][]] {
  const first = curves[0];
  if (curves.length === 1 && first) return [first.xs, first.ys];
  const xs = [...new Set(curves.flatMap((curve) => curve.xs))].sort((a, b) => a - b);
  const place = new Map(xs.map((x, index) => [x, index]));
  const columns = curves.map((curve) => {
    const column = new Array<number | null | undefined>(xs.length).fill(undefined);
    curve.xs.forEach((x, index) => {
      const at = place.get(x);
      if (at !== undefined) column[at] = curve.ys[index];
    });
    return column;
  });
  return [xs, ...columns];
}

/** First, last, least and greatest of a curve, for those who cannot see it. Null when it has no point. */
export function summary(curve: Curve): { count: number; first: number; last: number; least: number; most: number } | null {
  let count = 0;
  let [first, last, least, most] = [0, 0, Infinity, -Infinity];
  for (const value of curve.ys) {
    if (value === null || !Number.isFinite(value)) continue;
    if (count === 0) first = value;
    last = value;
    least = Math.min(least, value);
    most = Math.max(most, value);
    count += 1;
  }
  return count === 0 ? null : { count, first, last, least, most };
}
