// The kinds of stages in the reader's language; one that is new is shown as it is.
import { useI18n } from "vue-i18n";

export function useStageKinds(): (kind: string) => string {
  const { t, te } = useI18n();
  return (kind) => (te(`pipelines.stageKinds.${kind}`) ? t(`pipelines.stageKinds.${kind}`) : kind);
}
