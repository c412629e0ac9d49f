// The look: PrimeVue's Aura with a primary colour whose text has enough contrast in both themes (WCAG AA).
import { definePreset } from "@primeuix/themes";
import Aura from "@primeuix/themes/aura";

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
  components: {
    togglebutton: {
      colorScheme: { light: { root: { color: "{surface.600}" } }, dark: { root: { color: "{surface.300}" } } },
    },
    button: {
      colorScheme: {
        light: { text: { danger: { color: "{red.700}" } }, outlined: { secondary: { color: "{surface.700}" } }, root: { danger: { background: "{red.700}" } } },
        dark: { text: { danger: { color: "{red.300}" } }, outlined: { secondary: { color: "{surface.200}" } } },
      },
    },
  },
});
