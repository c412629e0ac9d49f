import type { RouteRecordRaw } from "vue-router";

export default [
  {
    path: "/surgery",
    name: "surgery",
    component: () => import("./SurgeryScreen.vue"),
    meta: { title: "surgery.title", nav: { group: "train", order: 40, icon: "pi-wrench" } },
  },
  { path: "/surgery/new", name: "newsurgery", component: () => import("./NewOperation.vue"), meta: { title: "surgery.new" } },
  { path: "/surgery/:id", name: "operation", component: () => import("./OperationScreen.vue"), meta: { title: "surgery.one" } },
] satisfies RouteRecordRaw[];
