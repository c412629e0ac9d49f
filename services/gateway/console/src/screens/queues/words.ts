// Queues and kinds of work by names of the reader's language; what people named themselves is shown as it is.
import { useI18n } from "vue-i18n";

export interface QueueWords {
  /** The kind of a piece of work. */
  kind: (kind: string) => string;
  /** What a queue is called beside its name; nothing where the name says it. */
  queue: (name: string) => string;
}

export function useQueueWords(): QueueWords {
  const { t, te } = useI18n();
  const word = (group: string, key: string, otherwise: string): string => (te(`queues.${group}.${key}`) ? t(`queues.${group}.${key}`) : otherwise);
  return { kind: (kind) => word("kinds", kind, kind), queue: (name) => word("names", name, "") };
}
