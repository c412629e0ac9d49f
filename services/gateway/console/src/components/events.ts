// The name of a fact in the reader's language: `ltp.job.v1.pause-requested` as "job pause requested".
import { useI18n } from "vue-i18n";

/** What names an event; a noun or a verb that has no translation yet is shown as it is. */
export function useEventName(): (subject: string) => string {
  const { t, te } = useI18n();
  const word = (kind: "nouns" | "verbs", name: string): string => (te(`frame.event.${kind}.${name}`) ? t(`frame.event.${kind}.${name}`) : name);
  return (subject) => {
    const [, noun = subject, , verb = ""] = subject.split(".");
    return t("frame.event.title", { noun: word("nouns", noun), verb: word("verbs", verb) });
  };
}
