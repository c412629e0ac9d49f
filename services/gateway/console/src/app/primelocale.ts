// The words PrimeVue says by itself (labels for screen readers, mostly), in the language of the page.
import type { PrimeVueLocaleOptions } from "primevue/config";
import type { Locale } from "@/i18n";

export async function spokenByPrimeVue(locale: Locale): Promise<Partial<PrimeVueLocaleOptions>> {
  if (locale === "zh") return (await import("primelocale/zh-CN.json")).default["zh-CN"] as Partial<PrimeVueLocaleOptions>;
  return (await import("primelocale/en.json")).default.en as Partial<PrimeVueLocaleOptions>;
}
