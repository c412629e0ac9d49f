import type { RouteRecordRaw } from "vue-router";

export default [
  {
    path: "/datasets",
    name: "datasets",
    component: () => import("./DatasetsScreen.vue"),
    meta: { title: "datasets.title", nav: { group: "data", order: 10, icon: "pi-database" } },
  },
  { path: "/datasets/:name", name: "dataset", component: () => import("./DatasetScreen.vue"), meta: { title: "datasets.one" } },
] satisfies RouteRecordRaw[];
