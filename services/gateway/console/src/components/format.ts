// Numbers as people read them. Sizes are bytes in binary units, durations seconds.
import { translate } from "@/i18n";

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

export function bytes(value: number | null | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  let size = Math.abs(value);
  let unit = 0;
  while (size >= 1024 && unit < UNITS.length - 1) {
    size /= 1024;
    unit += 1;
  }
  return `${value < 0 ? "-" : ""}${unit === 0 ? size : size.toFixed(size < 10 ? 2 : 1)} ${UNITS[unit] ?? ""}`;
}

export function duration(seconds: number | null | undefined): string {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "–";
  const time = (unit: "hours" | "minutes" | "seconds", count: number): string => translate(`frame.time.${unit}`, { count });
  if (seconds < 60) return time("seconds", seconds < 10 ? Math.round(seconds * 10) / 10 : Math.round(seconds));
  const hours = Math.floor(seconds / 3600);
  const minutes = Math.floor((seconds % 3600) / 60);
  const rest = Math.floor(seconds % 60);
  return hours > 0 ? `${time("hours", hours)} ${time("minutes", minutes)}` : `${time("minutes", minutes)} ${time("seconds", rest)}`;
}

/** A measured number with four significant digits. */
export function number(value: number | null | undefined): string {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e7)) return value.toExponential(3);
  return String(Number(value.toPrecision(size >= 1000 ? 7 : 4)));
}

export function percent(ratio: number | null | undefined): string {
  return ratio === null || ratio === undefined ? "–" : `${number(ratio * 100)} %`;
}

/** The first characters of an id or a hash, enough to tell them apart on one screen. */
export function short(id: string | null | undefined): string {
  return id ? id.replace(/^sha256:/, "").slice(0, 13) : "–";
}
