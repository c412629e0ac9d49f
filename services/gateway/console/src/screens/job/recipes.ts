// Two recipes, key by key. Pure.
export interface Difference {
  key: string;
  before: string | null;
  after: string | null;
}

/** A nested value as dotted keys with their values as text; lists count as one value. */
export function flat(value: unknown, prefix = ""): Map<string, string> {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) {
    const found = new Map<string, string>();
    for (const [key, inner] of Object.entries(value)) {
      for (const [path, text] of flat(inner, prefix ? `${prefix}.${key}` : key)) found.set(path, text);
    }
    return found;
  }
  return new Map([[prefix, typeof value === "string" ? value : JSON.stringify(value)]]);
}

/** What differs, in the order of the keys. */
export function differences(before: unknown, after: unknown): Difference[] {
  const [old, fresh] = [flat(before), flat(after)];
  const keys = [...new Set([...old.keys(), ...fresh.keys()])].sort();
  return keys
    .map((key) => ({ key, before: old.get(key) ?? null, after: fresh.get(key) ?? null }))
    .filter((line) => line.before !== line.after);
}

/** Without what is null: what a person would have written. */
export function stripped(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(stripped);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).flatMap(([key, inner]) => (inner === null ? [] : [[key, stripped(inner)]])));
}
