/** Values as `common::kpi::Distribution` stores them: each of them, or counts in logarithmic buckets. Pure. */

import type { SeriesRow, Values } from "../api/types.ts";

const GAMMA = 1.01;

/** Weighted values in ascending order. */
export type Weighted = { value: number; count: number }[];

/** What a bucket stands for: the middle of `(γ^(i-1), γ^i]` by relative error. */
function middle(bucket: number): number {
  return (2 * GAMMA ** bucket) / (1 + GAMMA);
}

export function ascending(values: Values): Weighted {
  const { buckets } = values;
  if (!buckets) return [...(values.values ?? [])].sort((one, other) => one - other).map((value) => ({ value, count: 1 }));
  const side = (counts: Record<string, number>, sign: number) =>
    Object.entries(counts).map(([bucket, count]) => ({ value: sign * middle(Number(bucket)), count }));
  const all = [...side(buckets.neg, -1), ...side(buckets.pos, 1)];
  if (buckets.zero > 0) all.push({ value: 0, count: buckets.zero });
  return all
    .sort((one, other) => one.value - other.value)
    .map(({ value, count }) => ({ value: Math.min(Math.max(value, buckets.min), buckets.max), count }));
}

/** The values of a KPI over all groups and tags. */
export function valuesOf(series: readonly SeriesRow[], name: string, unit: string, group = ""): Weighted {
  const fits = (row: SeriesRow) =>
    row.key.name === name && (row.key.unit ?? "") === unit && row.key.diagnostic !== true && (group === "" || row.key.group === group);
  return series.filter(fits).flatMap((row) => ascending(row.values)).sort((one, other) => one.value - other.value);
}

/** The share of values that are not greater than each of `at`, which ascends. */
export function ecdf(values: Weighted, at: readonly number[]): number[] {
  const total = values.reduce((sum, { count }) => sum + count, 0);
  let seen = 0;
  let next = 0;
  return at.map((limit) => {
    while (next < values.length && values[next]!.value <= limit) {
      seen += values[next]!.count;
      next += 1;
    }
    return total === 0 ? 0 : seen / total;
  });
}

/** Places at which to look at several distributions: so many, between the least and the greatest of all. */
export function places(all: readonly Weighted[], wanted: number): number[] {
  const filled = all.filter((values) => values.length > 0);
  if (filled.length === 0) return [];
  const low = Math.min(...filled.map((values) => values[0]!.value));
  const high = Math.max(...filled.map((values) => values.at(-1)!.value));
  if (low === high) return [low - Math.abs(low) * 0.01 - 1e-9, low, low + Math.abs(low) * 0.01 + 1e-9];
  return Array.from({ length: wanted }, (_, at) => low + ((high - low) * at) / (wanted - 1));
}

/** The middle one of single numbers, as runs give them. */
export function median(numbers: readonly number[]): number | null {
  if (numbers.length === 0) return null;
  const sorted = [...numbers].sort((one, other) => one - other);
  const half = Math.floor(sorted.length / 2);
  return sorted.length % 2 === 1 ? sorted[half]! : (sorted[half - 1]! + sorted[half]!) / 2;
}
