import type { RouteRecordRaw } from "vue-router";

export default {
  path: "/",
  name: "home",
  component: () => import("./HomeScreen.vue"),
  meta: { title: "home.title", nav: { group: "overview", order: 0, icon: "pi-home" } },
} satisfies RouteRecordRaw;
