import type { RouteRecordRaw } from "vue-router";

export default {
  path: "/login",
  name: "login",
  component: () => import("./LoginScreen.vue"),
  meta: { title: "login.title", open: true },
} satisfies RouteRecordRaw;
