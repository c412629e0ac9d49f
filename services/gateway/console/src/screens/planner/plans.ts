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

/** What the memory at its greatest is made of: one bar for each plan, a piece for each component. */
export function components(plans: PlanLine[], name: (key: string) => string, plan: (rank: number) => string): EChartsCoreOption {
  const keys = [...new Set(plans.flatMap((line) => Object.entries(line.plan.memory_components).filter(([, size]) => size > 0).map(([key]) => key)))];
  return {
    grid: GRID,
    legend: { bottom: 0, type: "scroll" },
    tooltip: { trigger: "item", ...spoken },
    xAxis: { type: "value", ...sized },
    yAxis: { type: "category", inverse: true, data: plans.map(({ rank }) => plan(rank)) },
    series: keys.map((key) => ({ name: name(key), type: "bar", stack: "memory", barMaxWidth: 26, data: plans.map((line) => line.plan.memory_components[key] ?? 0) })),
  };
}

/** How much each phase of one plan takes: what binds it, and the rest, under the limit of the device. */
export function phases(plan: Plan, words: { phase: (key: string) => string; binding: string; rest: string; limit: string }): EChartsCoreOption {
  const stages = plan.stages ?? [];
  return {
    grid: GRID,
    legend: { bottom: 0 },
    tooltip: { trigger: "axis", axisPointer: { type: "shadow" }, ...spoken },
    xAxis: { type: "value", ...sized },
    yAxis: { type: "category", inverse: true, data: stages.map(({ stage }) => words.phase(stage)) },
    series: [
      { name: words.binding, type: "bar", stack: "phase", barMaxWidth: 26, data: stages.map((one) => one.binding_bytes) },
      {
        name: words.rest,
        type: "bar",
        stack: "phase",
        barMaxWidth: 26,
        data: stages.map((one) => Math.max(one.memory_bytes - one.binding_bytes, 0)),
        markLine:
          plan.memory_upper_bytes * 4 > plan.device_memory_bytes
            ? { symbol: "none", data: [{ xAxis: plan.device_memory_bytes }], label: { formatter: words.limit } }
            : undefined,
      },
    ],
  };
}
