import type { RouteRecordRaw } from "vue-router";

export default [
  {
    path: "/evaluations",
    name: "evaluations",
    component: () => import("./EvaluationsScreen.vue"),
    meta: { title: "evaluations.title", nav: { group: "judge", order: 10, icon: "pi-check-square" } },
  },
  { path: "/evaluations/:id", name: "evaluation", component: () => import("./EvaluationScreen.vue"), meta: { title: "evaluations.one" } },
] satisfies RouteRecordRaw[];
