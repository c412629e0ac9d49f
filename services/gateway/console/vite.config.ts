// How the console is built: hashed files below /assets, no inline script, and a nonce that the gateway draws for each page.
import vue from "@vitejs/plugin-vue";
import { defineConfig } from "vitest/config";

export default defineConfig({
  plugins: [vue()],
  // The gateway puts a fresh nonce in the place of this word (services/gateway/pages.py).
  html: { cspNonce: "LTP_CSP_NONCE" },
  define: { __VUE_OPTIONS_API__: true, __VUE_PROD_DEVTOOLS__: false, __INTLIFY_PROD_DEVTOOLS__: false },
  resolve: { alias: { "@": new URL("./src", import.meta.url).pathname } },
  build: { target: "es2022", manifest: true, chunkSizeWarningLimit: 700 },
  test: { include: ["src/**/*.test.ts"], environment: "node" },
});
