// The profile of a split as the gateway tells it, and the charts made of it. Pure.
import type { EChartsCoreOption } from "echarts/core";
import { number } from "@/components/format";

export interface Spread {
  count: number;
  nulls: number;
  min: number;
  max: number;
  mean: number;
  std: number;
  p5: number;
  p50: number;
  p95: number;
  histogram: { edges: number[]; counts: number[] };
}
export interface Field {
  count: number;
  distinct: number;
  nulls: number;
  numbers?: Spread;
  characters?: Spread;
  top: { value: unknown; count: number; ratio: number }[];
}
export interface Crosstab {
  fields: string[];
  cells: { values: unknown[]; count: number }[];
}
export interface SplitProfile {
  rows: number;
  fields: Record<string, Field>;
  labels: string[];
  lengths: Record<string, Spread>;
  crosstabs?: Crosstab[];
  language?: { ratios: Record<string, number>; sampled_rows: number };
  roles?: Field;
}
export interface TokenProfile {
  sampled_rows: number;
  rows: number;
  max_length: number;
  tokens: Spread;
  trained_tokens: Spread;
  trained_ratio: number;
  truncated_rows_ratio: number;
  trained_tokens_lost_ratio: number;
  zero_trained_rows: number;
  problem_rows: number;
}

// Room above for the name of the axis.
const GRID = { left: 8, right: 12, top: 28, bottom: 4, containLabel: true };
const NARROW = { hideOverlap: true };

/** Bars over the bins of a histogram; `rows` names what is counted. */
export function histogram(spread: Spread, rows: string): EChartsCoreOption {
  const { edges, counts } = spread.histogram;
  const names = counts.map((_, index) => (counts.length === 1 ? number(edges[0]) : `${number(edges[index])} – ${number(edges[index + 1])}`));
  return {
    grid: GRID,
    tooltip: { trigger: "axis" },
    xAxis: { type: "category", data: names, axisLabel: { ...NARROW, formatter: (name: string) => name.split(" – ")[0] ?? name } },
    yAxis: { type: "value", name: rows, nameTextStyle: { align: "left" }, minInterval: 1 },
    series: [{ type: "bar", data: counts, barCategoryGap: "5%" }],
  };
}

/** One bar for each of the commonest values of a label. */
export function labels(field: Field): EChartsCoreOption {
  const top = field.top.slice(0, 15).reverse();
  return {
    grid: GRID,
    tooltip: { trigger: "axis" },
    xAxis: { type: "value", minInterval: 1 },
    yAxis: { type: "category", data: top.map(({ value }) => String(value).slice(0, 40)), axisLabel: { width: 110, overflow: "truncate" } },
    series: [{ type: "bar", data: top.map(({ count }) => count), label: { show: true, position: "right" }, barMaxWidth: 22 }],
  };
}

/** How often two labels come together. */
export function together(table: Crosstab): EChartsCoreOption {
  const axis = (place: number): string[] => [...new Set(table.cells.map((cell) => String(cell.values[place]).slice(0, 30)))].sort();
  const [down, across] = [axis(0), axis(1)];
  const most = Math.max(...table.cells.map(({ count }) => count), 1);
  return {
    grid: { ...GRID, bottom: 48 },
    tooltip: {},
    xAxis: { type: "category", data: across, axisLabel: NARROW },
    yAxis: { type: "category", data: down },
    visualMap: { min: 0, max: most, orient: "horizontal", left: "center", bottom: 0, itemHeight: 80, calculable: false },
    series: [
      {
        type: "heatmap",
        data: table.cells.map(({ values, count }) => [across.indexOf(String(values[1]).slice(0, 30)), down.indexOf(String(values[0]).slice(0, 30)), count]),
        label: { show: true },
      },
    ],
  };
}

/** A histogram in words, for those who cannot see it. */
export function words(spread: Spread): string {
  return `${number(spread.min)} – ${number(spread.p50)} – ${number(spread.max)}`;
}
