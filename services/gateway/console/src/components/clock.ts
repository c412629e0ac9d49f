// The time by which ages are shown, the same for the whole page.
import { ref } from "vue";

export const now = ref(Date.now());
setInterval(() => (now.value = Date.now()), 15_000);

const formats = new Map<string, Intl.RelativeTimeFormat>();
/** "3 min. ago" in a language; kept, for making one takes longer than all else that a line of a list needs. */
export function relative(locale: string): Intl.RelativeTimeFormat {
  let format = formats.get(locale);
  if (format === undefined) formats.set(locale, (format = new Intl.RelativeTimeFormat(locale, { numeric: "auto", style: "short" })));
  return format;
}
