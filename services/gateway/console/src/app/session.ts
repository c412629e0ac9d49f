// Who is logged in: the token, kept for this tab or, when asked, for this browser, and whom it speaks for.
import { reactive, readonly } from "vue";
import type { components } from "@/api/schema";

export type Myself = components["schemas"]["Myself"];
export type EndReason = "left" | "refused";

const KEY = "ltp.token";

const state = reactive({
  token: sessionStorage.getItem(KEY) ?? localStorage.getItem(KEY),
  myself: null as Myself | null,
  ended: null as EndReason | null,
});

export const session = readonly(state);

/** Ask whom a token speaks for. Answers null when the gateway refuses it. */
async function whois(token: string): Promise<Myself | null> {
  const response = await fetch("/api/v1/whoami", { headers: { Authorization: `Bearer ${token}` } });
  if (response.status === 401) return null;
  if (!response.ok) throw new TypeError(`HTTP ${response.status}`);
  return (await response.json()) as Myself;
}

/** Log in. Answers whether the token was taken; throws when the gateway cannot be reached. */
export async function logIn(token: string, remember: boolean): Promise<boolean> {
  const myself = await whois(token);
  if (myself === null) return false;
  (remember ? localStorage : sessionStorage).setItem(KEY, token);
  Object.assign(state, { token, myself, ended: null });
  return true;
}

const FIRST_PAUSE_MS = 300;
const LONGEST_PAUSE_MS = 5000;

/** Learn whom the kept token speaks for, once after a refresh. Asked until there is an answer: without it nobody may do anything. */
export async function recall(): Promise<void> {
  const token = state.token;
  for (let pause = FIRST_PAUSE_MS; token !== null && token === state.token && state.myself === null; pause = Math.min(2 * pause, LONGEST_PAUSE_MS)) {
    try {
      const myself = await whois(token);
      if (token !== state.token) return;
      if (myself === null) return endSession("refused");
      state.myself = myself;
    } catch {
      // No answer, or none that counts: a gateway that starts, or is asked too much.
      await new Promise((resolve) => setTimeout(resolve, pause));
    }
  }
}

export function endSession(reason: EndReason): void {
  sessionStorage.removeItem(KEY);
  localStorage.removeItem(KEY);
  Object.assign(state, { token: null, myself: null, ended: reason });
}

/** Whether the token may do something: `may("jobs:write")`. */
export function may(scope: string): boolean {
  return state.myself?.scopes.includes(scope) ?? false;
}
