import type { RouteRecordRaw } from "vue-router";

export default {
  path: "/settings",
  name: "settings",
  component: () => import("./SettingsScreen.vue"),
  meta: { title: "settings.title", nav: { group: "operate", order: 90, icon: "pi-cog" } },
} satisfies RouteRecordRaw;
