// The keys of recipes by names of the reader's language. In English the key is the name.
import { useI18n } from "vue-i18n";

export function useRecipeNames(): (path: string) => string {
  const { t, te } = useI18n();
  return (path) => {
    const key = `newjob.names.${path.split(".").at(-1) ?? path}`;
    return te(key) ? t(key) : "";
  };
}
