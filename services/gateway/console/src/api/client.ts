// The typed API client: every call carries the session's token, and `ask` turns an answer that is no success into a Problem.
import createClient from "openapi-fetch";
import { problemOf } from "@/api/problem";
import type { components, paths } from "@/api/schema";
import { endSession, session } from "@/app/session";

export type Schemas = components["schemas"];

export const api = createClient<paths>({ baseUrl: "" });

api.use({
  onRequest({ request }) {
    if (session.token) request.headers.set("Authorization", `Bearer ${session.token}`);
    return request;
  },
  onResponse({ response }) {
    if (response.status === 401) endSession("refused");
  },
});

interface Answer<T> {
  data?: T;
  error?: unknown;
  response: Response;
}

/** The data of an answer. Throws a Problem for every other one: `const job = await ask(api.GET("/api/v1/jobs/{job_id}", …))`. */
export async function ask<T>(pending: Promise<Answer<T>>): Promise<T> {
  const { data, error, response } = await pending;
  if (!response.ok) throw problemOf(response.status, error);
  return data as T;
}
