// The languages. Strings live beside what shows them: `src/i18n/{en,zh}.json` for what is shared, `src/screens/<name>/{en,zh}.json`
// for a screen, whose keys begin with its folder's name: `t("jobs.title")`. One file is fetched for one language.
import { createI18n } from "vue-i18n";

export const LOCALES = { en: "English", zh: "中文" } as const;
export type Locale = keyof typeof LOCALES;
const KEY = "ltp.locale";

const loaders: Record<Locale, () => Promise<{ default: Record<string, unknown> }>> = {
  en: () => import("@/i18n/en"),
  zh: () => import("@/i18n/zh"),
};

export const i18n = createI18n({ legacy: false, locale: "en", fallbackLocale: "en", messages: {} as Record<string, never> });

export function preferred(): Locale {
  const kept = localStorage.getItem(KEY);
  if (kept === "en" || kept === "zh") return kept;
  return navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en";
}

type Listener = (locale: Locale) => Promise<void> | void;
const listeners: Listener[] = [];
/** Called with every change of the language, for what keeps strings of its own (PrimeVue). */
export function onLocale(listener: Listener): void {
  listeners.push(listener);
}

export async function speak(locale: Locale): Promise<void> {
  if (!i18n.global.availableLocales.includes(locale as never)) {
    i18n.global.setLocaleMessage(locale as never, (await loaders[locale]()).default as never);
  }
  i18n.global.locale.value = locale as never;
  document.documentElement.lang = locale === "zh" ? "zh-CN" : "en";
  localStorage.setItem(KEY, locale);
  for (const listener of listeners) await listener(locale);
}

/** For code outside components. */
export function translate(key: string, values: Record<string, unknown> = {}): string {
  return i18n.global.t(key, values);
}
