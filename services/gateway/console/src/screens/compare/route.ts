import type { RouteRecordRaw } from "vue-router";

export default {
  path: "/compare",
  name: "compare",
  component: () => import("./CompareScreen.vue"),
  meta: { title: "compare.title", nav: { group: "judge", order: 20, icon: "pi-arrows-h" } },
} satisfies RouteRecordRaw;
