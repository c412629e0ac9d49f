import type { RouteRecordRaw } from "vue-router";

export default {
  path: "/datasets/:name/sample",
  name: "sample",
  component: () => import("./SampleScreen.vue"),
  meta: { title: "sample.title" },
} satisfies RouteRecordRaw;
