// Plans as lines of a table and as bars. Pure.
import type { EChartsCoreOption } from "echarts/core";
import type { Schemas } from "@/api/client";
import { bytes } from "@/components/format";

export type Plan = Schemas["Plan"];
export interface PlanLine {
  rank: number;
  best: boolean;
  plan: Plan;
  devices: number;
  micro_batch_size: number;
  memory: number;
  room: number;
  step_seconds: number | null;
  eta_seconds: number | null;
  cost_dollars: number | null;
}

export function lines(report: Schemas["PlanReport"]): PlanLine[] {
  return report.plans.map((plan, index) => ({
    rank: index + 1,
    best: report.pareto.includes(index),
    plan,
    devices: plan.devices,
    micro_batch_size: plan.micro_batch_size,
    memory: plan.memory_upper_bytes,
    room: 1 - plan.memory_upper_bytes / plan.device_memory_bytes,
    step_seconds: plan.step_seconds ?? null,
    eta_seconds: plan.eta_seconds ?? null,
    cost_dollars: plan.cost_dollars ?? null,
  }));
}

const GRID = { left: 8, right: 24, top: 8, bottom: 56, containLabel: true };
const sized = { axisLabel: { formatter: (value: number) => bytes(value), hideOverlap: true } };
const spoken = { valueFormatter: (value: unknown) => bytes(Number(value)) };

// A component has its place and its colour in every chart (P. Tol's "muted" and "bright").
const ORDER = ["parameters", "gradients", "optimizer", "activations", "loss_head", "gathered_layers", "reference", "critic", "rollout", "kv_cache", "workspace", "context"];
const COLOURS = ["#4477aa", "#66ccee", "#228833", "#ccbb44", "#ee6677", "#aa3377", "#88ccee", "#999933", "#44aa99", "#882255", "#bbbbbb", "#dd8452"];
const place = (key: string): number => (ORDER.includes(key) ? ORDER.indexOf(key) : ORDER.length);

type Bar = { name: string; sizes: Record<string, number> };

/** One bar for each, a piece for each component; `limit` is a line across all, where they come near it. */
function stacked(bars: Bar[], name: (key: string) => string, limit?: { at: number; label: string }): EChartsCoreOption {
  const found = new Set(bars.flatMap(({ sizes }) => Object.entries(sizes).filter(([, size]) => size > 0).map(([key]) => key)));
  const keys = [...found].sort((a, b) => place(a) - place(b));
  const line = limit && { symbol: "none", data: [{ xAxis: limit.at }], label: { formatter: limit.label } };
  return {
    grid: GRID,
    legend: { bottom: 0, type: "scroll" },
    tooltip: { trigger: "item", ...spoken },
    xAxis: { type: "value", ...sized },
    yAxis: { type: "category", inverse: true, data: bars.map((bar) => bar.name) },
    series: keys.map((key, index) => ({
      name: name(key),
      type: "bar",
      stack: "memory",
      barMaxWidth: 26,
      itemStyle: { color: COLOURS[place(key) % COLOURS.length] },
      data: bars.map(({ sizes }) => sizes[key] ?? 0),
      markLine: index === 0 ? line : undefined,
    })),
  };
}

/** What the memory at its greatest is made of, plan by plan. */
export function components(plans: PlanLine[], name: (key: string) => string, plan: (rank: number) => string): EChartsCoreOption {
  return stacked(plans.map((line) => ({ name: plan(line.rank), sizes: line.plan.memory_components })), name);
}

/** What each phase of one plan takes and of what, under the limit of the device. */
export function phases(plan: Plan, words: { phase: (key: string) => string; component: (key: string) => string; limit: string }): EChartsCoreOption {
  const bars = (plan.stages ?? []).map((one) => ({
    name: words.phase(one.stage),
    // Plans of before told the largest component alone.
    sizes: one.components ?? { [one.binding]: one.binding_bytes },
  }));
  const isNear = plan.memory_upper_bytes * 4 > plan.device_memory_bytes;
  return stacked(bars, words.component, isNear ? { at: plan.device_memory_bytes, label: words.limit } : undefined);
}
