// Puts the console together: theme, language, addresses, and PrimeVue, whose styles carry the page's nonce.
import "primeicons/primeicons.css";
import "@/app/base.css";
import PrimeVue from "primevue/config";
import ConfirmationService from "primevue/confirmationservice";
import ToastService from "primevue/toastservice";
import Tooltip from "primevue/tooltip";
import { createApp } from "vue";
import App from "@/App.vue";
import { spokenByPrimeVue } from "@/app/primelocale";
import preset from "@/app/preset";
import { router } from "@/app/router";
import { i18n, onLocale, preferred, speak } from "@/i18n";

const nonce = document.querySelector<HTMLMetaElement>("meta[property=csp-nonce]")?.nonce ?? "";

const app = createApp(App);
app.use(i18n);
app.use(PrimeVue, {
  theme: { preset, options: { darkModeSelector: ".dark", cssLayer: false } },
  csp: { nonce },
});
app.use(ToastService);
app.use(ConfirmationService);
app.directive("tooltip", Tooltip);
const primevue = app.config.globalProperties.$primevue;
onLocale(async (locale) => {
  if (primevue.config.locale) Object.assign(primevue.config.locale, await spokenByPrimeVue(locale));
});
await speak(preferred());
app.use(router);
app.mount("#app");
