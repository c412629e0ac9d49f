// Light, dark, or as the system is: a class on the root element, remembered.
import { ref, watch } from "vue";

export type Theme = "system" | "light" | "dark";
const KEY = "ltp.theme";
const system = matchMedia("(prefers-color-scheme: dark)");

function kept(): Theme {
  const theme = localStorage.getItem(KEY);
  return theme === "light" || theme === "dark" ? theme : "system";
}

export const theme = ref<Theme>(kept());
/** Whether dark is what is shown now; charts are drawn anew when it changes. */
export const isDark = ref(false);

function apply(): void {
  isDark.value = theme.value === "dark" || (theme.value === "system" && system.matches);
  document.documentElement.classList.toggle("dark", isDark.value);
  document.documentElement.style.colorScheme = isDark.value ? "dark" : "light";
}

watch(theme, (chosen) => {
  localStorage.setItem(KEY, chosen);
  apply();
});
system.addEventListener("change", apply);
apply();
