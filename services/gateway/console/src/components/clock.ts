// The time by which ages are shown, the same for the whole page.
import { ref } from "vue";

export const now = ref(Date.now());
setInterval(() => (now.value = Date.now()), 15_000);

// Formats are kept: making one takes longer than all else that a line of a list needs.
function kept<F>(make: (locale: string) => F): (locale: string) => F {
  const formats = new Map<string, F>();
  return (locale) => {
    let format = formats.get(locale);
    if (format === undefined) formats.set(locale, (format = make(locale)));
    return format;
  };
}
/** "3 min. ago" in a language. */
export const relative = kept((locale) => new Intl.RelativeTimeFormat(locale, { numeric: "auto", style: "short" }));
/** Date and time in a language. */
export const exactly = kept((locale) => new Intl.DateTimeFormat(locale, { dateStyle: "short", timeStyle: "medium" }));
