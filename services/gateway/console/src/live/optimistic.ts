// Show what a person asked for at once, and take it back when the gateway refuses.

/**
 * Change what is shown, then ask for it. `apply` makes the change and returns what undoes it; a refusal undoes it and is thrown on.
 */
export async function optimistically<T>(apply: () => () => void, request: () => Promise<T>): Promise<T> {
  const undo = apply();
  try {
    return await request();
  } catch (thrown) {
    undo();
    throw thrown;
  }
}
