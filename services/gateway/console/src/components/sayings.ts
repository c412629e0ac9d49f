// What the planner says of plans, in the reader's language: by its code and what is filled in. Its English is the API's.
import { useI18n } from "vue-i18n";
import type { Schemas } from "@/api/client";

type Saying = Schemas["Saying"];

/** A saying in the reader's words, or the English beside it where there is no translation. */
export function useSayings(): (said: Saying | Saying[] | null | undefined, english: string) => string {
  const { t, te } = useI18n();
  const named = (kind: string, key: string | undefined): string | undefined => (key !== undefined && te(`${kind}.${key}`) ? t(`${kind}.${key}`) : key);
  function one({ code, values = {} }: Saying): string {
    return t(`codes.plans.${code}`, { ...values, rule: named("codes.rules", values.number), component: named("planner.components", values.component), what: named("planner.offloads", values.what) });
  }
  return (said, english) => {
    const all = said === null || said === undefined ? [] : Array.isArray(said) ? said : [said];
    if (all.length === 0 || !all.every(({ code }) => te(`codes.plans.${code}`))) return english;
    return all.map(one).join(t("frame.listSeparator"));
  };
}
