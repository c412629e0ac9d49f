// A screen's strings are named after its folder.
export function gathered(shared: Record<string, unknown>, screens: Record<string, unknown>): Record<string, unknown> {
  const all: Record<string, unknown> = { ...shared };
  for (const [path, strings] of Object.entries(screens)) {
    const name = path.split("/").at(-2);
    if (name !== undefined) all[name] = strings;
  }
  return all;
}
