// The order of a table's rows by one of their fields: numbers by size, words as people sort them, nothing last. Pure.
export type Direction = "ascending" | "descending";

const words = new Intl.Collator(undefined, { numeric: true });

export function sorted<T extends object>(rows: readonly T[], key: string, direction: Direction): T[] {
  const sign = direction === "ascending" ? 1 : -1;
  const of = (row: T): unknown => (row as Record<string, unknown>)[key] ?? null;
  return [...rows].sort((one, other) => {
    const [a, b] = [of(one), of(other)];
    // What has no value is no smallest one: it stays at the end, whichever way.
    if (a === null || b === null) return Number(a === null) - Number(b === null);
    return sign * (typeof a === "number" && typeof b === "number" ? a - b : words.compare(String(a), String(b)));
  });
}
