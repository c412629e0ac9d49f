import type { RouteRecordRaw } from "vue-router";

export default {
  path: "/jobs",
  name: "jobs",
  component: () => import("./JobsScreen.vue"),
  meta: { title: "jobs.title", nav: { group: "train", order: 10, icon: "pi-play-circle" } },
} satisfies RouteRecordRaw;
