import type { RouteRecordRaw } from "vue-router";

export default {
  path: "/lineage",
  name: "lineage",
  component: () => import("./LineageScreen.vue"),
  meta: { title: "lineage.title", nav: { group: "data", order: 40, icon: "pi-share-alt" } },
} satisfies RouteRecordRaw;
