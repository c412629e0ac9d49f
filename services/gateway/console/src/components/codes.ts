// What the platform's codes mean in a language other than English: its messages hold the facts, and are English.
import { useI18n } from "vue-i18n";

export type CodeKind = "problems" | "reasons" | "alarms" | "checks" | "cautions";

/** A code in the reader's words; nothing where the message beside it says the same already, or the code is new. */
export function useCodes(): (kind: CodeKind, code: string | null | undefined, values?: Record<string, unknown>) => string {
  const { t, te } = useI18n();
  return (kind, code, values = {}) => {
    const key = `codes.${kind}.${code ?? ""}`;
    return code && te(key) ? t(key, values) : "";
  };
}
