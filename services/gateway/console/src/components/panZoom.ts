// Moving about in a chart of uPlot, which itself knows zooming by dragging: Shift+drag pans, the wheel zooms, and so do the keys.
import type uPlot from "uplot";

const STEP = 0.15;

interface Range {
  min: number;
  max: number;
}

function whole(chart: uPlot): Range {
  const xs = chart.data[0];
  return { min: xs[0] ?? 0, max: xs.at(-1) ?? 1 };
}

function shown(chart: uPlot): Range {
  const { min, max } = chart.scales.x ?? {};
  const all = whole(chart);
  return { min: min ?? all.min, max: max ?? all.max };
}

/** Show a range, kept within the data and never narrower than a few points. */
function show(chart: uPlot, min: number, max: number): void {
  const all = whole(chart);
  const width = Math.min(max - min, all.max - all.min);
  if (width <= 0) return;
  const from = Math.min(Math.max(min, all.min), all.max - width);
  chart.setScale("x", { min: from, max: from + width });
}

export function pan(chart: uPlot, share: number): void {
  const { min, max } = shown(chart);
  show(chart, min + share * (max - min), max + share * (max - min));
}

export function zoom(chart: uPlot, factor: number, around = 0.5): void {
  const { min, max } = shown(chart);
  const centre = min + around * (max - min);
  show(chart, centre - (centre - min) * factor, centre + (max - centre) * factor);
}

export function reset(chart: uPlot): void {
  const { min, max } = whole(chart);
  chart.setScale("x", { min, max });
}

/** Answers whether the key meant something. */
export function key(chart: uPlot, name: string): boolean {
  if (name === "ArrowLeft") pan(chart, -STEP);
  else if (name === "ArrowRight") pan(chart, STEP);
  else if (name === "+" || name === "=") zoom(chart, 1 / 1.5);
  else if (name === "-") zoom(chart, 1.5);
  else if (name === "0" || name === "Home") reset(chart);
  else return false;
  return true;
}

export function mouse(chart: uPlot): void {
  const area = chart.over;
  area.addEventListener(
    "mousedown",
    (down) => {
      if (!down.shiftKey || down.button !== 0) return;
      down.preventDefault();
      down.stopImmediatePropagation();
      const start = shown(chart);
      const width = area.clientWidth || 1;
      const move = (event: MouseEvent): void => {
        const share = (down.clientX - event.clientX) / width;
        show(chart, start.min + share * (start.max - start.min), start.max + share * (start.max - start.min));
      };
      const up = (): void => {
        document.removeEventListener("mousemove", move);
        document.removeEventListener("mouseup", up);
      };
      document.addEventListener("mousemove", move);
      document.addEventListener("mouseup", up);
    },
    { capture: true },
  );
  area.addEventListener(
    "wheel",
    (event) => {
      // A plain wheel scrolls the page, as everywhere.
      if (!event.ctrlKey && !event.shiftKey) return;
      event.preventDefault();
      zoom(chart, event.deltaY + event.deltaX < 0 ? 1 / 1.2 : 1.2, event.offsetX / (area.clientWidth || 1));
    },
    { passive: false },
  );
}
