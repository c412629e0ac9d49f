import type { RouteRecordRaw } from "vue-router";

export default {
  path: "/jobs/new",
  name: "newjob",
  component: () => import("./NewJobScreen.vue"),
  meta: { title: "newjob.title", nav: { group: "train", order: 20, icon: "pi-plus-circle" } },
} satisfies RouteRecordRaw;
