// What a person writes outlives a refresh and the way back: it is kept in the tab until it was sent.
import { ref, watch, type Ref } from "vue";

const key = (name: string): string => `ltp.draft.${name}`;

/** Text that begins as it was left in this tab, else as `otherwise` says. */
export function useDraft(name: string, otherwise: () => string): Ref<string> {
  const text = ref(sessionStorage.getItem(key(name)) ?? otherwise());
  watch(text, (now) => sessionStorage.setItem(key(name), now));
  return text;
}
export function hasDraft(name: string): boolean {
  return sessionStorage.getItem(key(name)) !== null;
}
/** Leave a text for the screen that shows the draft of this name. */
export function leaveDraft(name: string, text: string): void {
  sessionStorage.setItem(key(name), text);
}
export function dropDraft(name: string): void {
  sessionStorage.removeItem(key(name));
}
