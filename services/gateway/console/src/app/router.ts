// The addresses. A screen is a folder with a `route.ts`; the frame finds it, puts it into the navigation, and loads it when it is opened.
import { createRouter, createWebHistory, type RouteComponent, type RouteRecordRaw } from "vue-router";
import { patiently, unloaded } from "@/app/patience";
import { session } from "@/app/session";

export const NAV_GROUPS = ["overview", "train", "data", "judge", "operate"] as const;
export type NavGroup = (typeof NAV_GROUPS)[number];

declare module "vue-router" {
  interface RouteMeta {
    /** Key of the screen's name, for the title and the navigation. */
    title: string;
    /** Where it stands in the navigation; without it the screen is reached by links only. */
    nav?: { group: NavGroup; order: number; icon: string };
    /** Shown without a session. */
    open?: boolean;
  }
}

const found = import.meta.glob<{ default: RouteRecordRaw | RouteRecordRaw[] }>("../screens/*/route.ts", { eager: true });
export const screens: RouteRecordRaw[] = Object.values(found).flatMap((module) => module.default);

function loaded(route: RouteRecordRaw): RouteRecordRaw {
  const load = route.component;
  return { ...route, component: patiently(load as () => Promise<RouteComponent>) } as RouteRecordRaw;
}
const missing: RouteRecordRaw = { path: "/:rest(.*)*", name: "missing", component: () => import("@/app/MissingScreen.vue"), meta: { title: "frame.missing.title" } };

export const router = createRouter({
  history: createWebHistory(),
  routes: [...screens, missing].map(loaded),
  // Filters live in the URL: changing one is no reason to jump to the top.
  scrollBehavior: (to, from, saved) => saved ?? (to.path === from.path ? false : { top: 0 }),
});

router.beforeEach((to) => {
  if (session.token === null && !to.meta.open) return { name: "login", query: to.fullPath === "/" ? {} : { to: to.fullPath } };
  return true;
});

router.onError((_, to) => (unloaded.value = to.fullPath));
router.afterEach(() => (unloaded.value = null));
