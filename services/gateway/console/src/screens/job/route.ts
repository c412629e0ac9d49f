import type { RouteRecordRaw } from "vue-router";

export default {
  path: "/jobs/:id([0-9a-f-]{36})",
  name: "job",
  component: () => import("./JobScreen.vue"),
  meta: { title: "job.title" },
} satisfies RouteRecordRaw;
