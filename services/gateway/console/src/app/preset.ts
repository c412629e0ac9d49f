// The look: PrimeVue's Aura with a primary colour whose text has enough contrast in both themes (WCAG AA).
import { definePreset } from "@primeuix/themes";
import Aura from "@primeuix/themes/aura";

const MESSAGES = { info: "blue", success: "green", warn: "yellow", error: "red" };

export default definePreset(Aura, {
  semantic: {
    primary: Object.fromEntries([50, 100, 200, 300, 400, 500, 600, 700, 800, 900, 950].map((n) => [n, `{indigo.${n}}`])),
    colorScheme: {
      light: {
        primary: { color: "{indigo.700}", contrastColor: "#ffffff", hoverColor: "{indigo.800}", activeColor: "{indigo.900}" },
        text: { mutedColor: "{surface.600}" },
        formField: { placeholderColor: "{surface.600}", borderColor: "{surface.500}" },
      },
      dark: {
        primary: { color: "{indigo.300}", contrastColor: "{surface.950}", hoverColor: "{indigo.200}", activeColor: "{indigo.100}" },
        text: { mutedColor: "{surface.300}" },
        formField: { placeholderColor: "{surface.300}", borderColor: "{surface.500}" },
      },
    },
  },
  // Aura's own of these fall short of 4.5 to 1.
  components: {
    togglebutton: { colorScheme: { light: { root: { color: "{surface.700}" } }, dark: { root: { color: "{surface.200}" } } } },
    message: {
      colorScheme: {
        light: Object.fromEntries(Object.entries(MESSAGES).map(([severity, colour]) => [severity, { color: `{${colour}.800}` }])),
        dark: Object.fromEntries(Object.entries(MESSAGES).map(([severity, colour]) => [severity, { color: `{${colour}.200}` }])),
      },
    },
    button: {
      colorScheme: {
        light: { text: { danger: { color: "{red.700}" } }, outlined: { secondary: { color: "{surface.700}" }, danger: { color: "{red.700}" } }, root: { danger: { background: "{red.700}" }, success: { background: "{green.700}", hoverBackground: "{green.800}", activeBackground: "{green.900}" } } },
        dark: { text: { danger: { color: "{red.300}" } }, outlined: { secondary: { color: "{surface.200}" }, danger: { color: "{red.300}" } } },
      },
    },
  },
});
