// Filters that live in the URL, so that a refresh, the back button and a link sent to somebody show the same.
import { computed, type ComputedRef, type WritableComputedRef } from "vue";
import { useRoute, useRouter, type LocationQueryRaw, type Router } from "vue-router";

// Several filters set in one go become one change of the URL.
let pending: LocationQueryRaw | null = null;

function change(router: Router, name: string, value: string | undefined): void {
  if (pending === null) {
    pending = { ...router.currentRoute.value.query };
    queueMicrotask(() => {
      const query = pending ?? {};
      pending = null;
      void router.replace({ query, hash: router.currentRoute.value.hash });
    });
  }
  pending[name] = value;
}

/** One filter as text; the empty text stands for "none" and is left out of the URL. */
export function useQuery(name: string, otherwise = ""): WritableComputedRef<string> {
  const route = useRoute();
  const router = useRouter();
  return computed({
    get: () => {
      const value = route.query[name];
      return (Array.isArray(value) ? value[0] : value) ?? otherwise;
    },
    // A field that was cleared says null.
    set: (value: string | null) => change(router, name, value === null || value === otherwise ? undefined : value),
  });
}

/** One filter that holds several words. */
export function useQueryList(name: string): WritableComputedRef<string[]> {
  const text = useQuery(name);
  return computed({
    get: () => (text.value ? text.value.split(",") : []),
    set: (values) => (text.value = values.join(",")),
  });
}

/** How a table is sorted, as the address and the API say it: `name`, or `-name` for the other way round. */
export function useSort(): WritableComputedRef<string> {
  return useQuery("sort");
}

/** The same for the API, which sorts lists that are longer than what was read of them: its names by those of the columns. */
export function useApiSort<T extends string>(names: Record<string, T>): ComputedRef<T | `-${T}` | undefined> {
  const sort = useSort();
  return computed(() => {
    const name = names[sort.value.replace(/^-/, "")];
    if (name === undefined) return undefined;
    return sort.value.startsWith("-") ? (`-${name}` as const) : name;
  });
}
