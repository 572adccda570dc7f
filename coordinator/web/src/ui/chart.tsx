/** A uPlot chart in a component; the library comes only with the pages that draw one. */

import { useEffect, useRef } from "preact/hooks";
import type uPlot from "uplot";
import { css, palette } from "./palette.ts";
import type { Palette } from "./palette.ts";
import { dark } from "./theme.ts";
import { useWidth } from "./width.ts";

export type ChartProps = {
  data: uPlot.AlignedData;
  /** Of the colours and a width; without size. */
  options: (colors: Palette) => Omit<uPlot.Options, "width" | "height">;
  height?: number; label: string;
};

export function Chart({ data, options, height = 280, label }: ChartProps) {
  const [box, width] = useWidth();
  const inner = useRef<HTMLDivElement>(null);
  const isDark = dark.value;
  useEffect(() => {
    if (width === 0) return undefined;
    let chart: uPlot | null = null;
    let left = false;
    void import("uplot").then(({ default: Plot }) => {
      if (left || !inner.current) return;
      chart = new Plot({ ...options(palette()), width, height }, data, inner.current);
    });
    return () => {
      left = true;
      chart?.destroy();
    };
  }, [data, width, height, isDark]);
  return <div ref={box} class="chart" role="img" aria-label={label}><div ref={inner} /></div>;
}

/** An axis in the page's colours. */
export function axis(colors: Palette, more: Partial<uPlot.Axis> = {}): uPlot.Axis {
  const line = { stroke: css(colors.line), width: 1 };
  return { stroke: css(colors.quiet), grid: line, ticks: { ...line, size: 5 }, font: "12px system-ui, sans-serif", ...more };
}
