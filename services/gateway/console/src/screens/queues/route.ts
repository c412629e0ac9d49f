import type { RouteRecordRaw } from "vue-router";

export default {
  path: "/queues",
  name: "queues",
  component: () => import("./QueuesScreen.vue"),
  meta: { title: "queues.title", nav: { group: "operate", order: 10, icon: "pi-bars" } },
} satisfies RouteRecordRaw;
