import type { RouteRecordRaw } from "vue-router";

export default {
  path: "/planner",
  name: "planner",
  component: () => import("./PlannerScreen.vue"),
  meta: { title: "planner.title", nav: { group: "train", order: 30, icon: "pi-calculator" } },
} satisfies RouteRecordRaw;
