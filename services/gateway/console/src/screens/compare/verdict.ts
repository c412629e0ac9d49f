// How differences and verdicts are written.
import { percent } from "@/components/format";

export const SEVERITIES: Record<string, string> = { better: "success", worse: "danger", "no evidence": "secondary" };

/** A difference of shares, with its sign. */
export function signed(value: number): string {
  return `${value > 0 ? "+" : ""}${percent(value)}`;
}
