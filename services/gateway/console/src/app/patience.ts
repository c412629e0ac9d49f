// A screen's code comes when the screen is opened. A connection that breaks meanwhile is tried again; what still fails is told, so that no
// place stays blank.
import { shallowRef } from "vue";

type Load<T> = () => Promise<T>;

const PAUSES_MS = [300, 1000, 3000];

/** A loader that is tried again, with growing pauses, before it gives up. */
export function patiently<T>(load: Load<T>, pauses: number[] = PAUSES_MS): Load<T> {
  return async () => {
    for (const pause of pauses) {
      try {
        return await load();
      } catch {
        await new Promise((resolve) => setTimeout(resolve, pause));
      }
    }
    return load();
  };
}

/** The address of the screen that could not be loaded: the page has to be fetched anew, for the platform may have a new console. */
export const unloaded = shallowRef<string | null>(null);
