import type { RouteRecordRaw } from "vue-router";

export default [
  {
    path: "/pipelines",
    name: "pipelines",
    component: () => import("./PipelinesScreen.vue"),
    meta: { title: "pipelines.title", nav: { group: "train", order: 30, icon: "pi-sitemap" } },
  },
  { path: "/pipelines/new", name: "newpipeline", component: () => import("./NewPipelineScreen.vue"), meta: { title: "pipelines.new" } },
  { path: "/pipelines/:id([0-9a-f-]{36})", name: "pipelinerun", component: () => import("./RunScreen.vue"), meta: { title: "pipelines.run" } },
] satisfies RouteRecordRaw[];
