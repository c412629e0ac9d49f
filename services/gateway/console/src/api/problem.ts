// What went wrong with a request, as the gateway says it (RFC 9457, with `code` and `hint`), or as the browser found it.
import type { components } from "@/api/schema";

export type ProblemDocument = components["schemas"]["ProblemDocument"];

export class Problem extends Error {
  readonly status: number;
  readonly code: string;
  readonly detail: string;
  readonly hint: string;

  constructor(status: number, code: string, detail: string, hint: string) {
    super(detail);
    this.status = status;
    this.code = code;
    this.detail = detail;
    this.hint = hint;
  }
}

/** No answer came: the gateway is down, or the network is. Its words are translated where it is shown. */
export const UNREACHABLE = "unreachable";

function isDocument(body: unknown): body is ProblemDocument {
  return typeof body === "object" && body !== null && "code" in body && "detail" in body;
}

/** The problem in an answer that is no success; `body` is what was decoded of it. */
export function problemOf(status: number, body: unknown): Problem {
  if (isDocument(body)) return new Problem(status, body.code, body.detail, body.hint);
  return new Problem(status, "unexpected_answer", typeof body === "string" ? body.slice(0, 500) : `HTTP ${status}`, "");
}

/** Anything that was thrown, as a problem. */
export function asProblem(thrown: unknown): Problem {
  if (thrown instanceof Problem) return thrown;
  if (thrown instanceof TypeError) return new Problem(0, UNREACHABLE, thrown.message, "");
  return new Problem(0, "defect", thrown instanceof Error ? thrown.message : String(thrown), "");
}

export function isAbort(thrown: unknown): boolean {
  return thrown instanceof DOMException && thrown.name === "AbortError";
}
