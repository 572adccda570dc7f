/** Where the bytes of a replay file come from: ranges of a URL, or a file that is here already. */

import { ReplayError } from "./format.ts";

/** Bytes from `from` on, up to `to` (not included), and how long the file is at this moment. */
export type Piece = { bytes: Uint8Array; from: number; total: number };

export interface Source {
  /** From `from` on; shorter at the end of the file, empty behind it. */
  range(from: number, to: number): Promise<Piece>;
  /** The last bytes. */
  tail(length: number): Promise<Piece>;
}

/** A file in memory. */
export class BytesSource implements Source {
  readonly bytes: Uint8Array;
  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
  }
  range(from: number, to: number): Promise<Piece> {
    const total = this.bytes.length;
    return Promise.resolve({ bytes: this.bytes.subarray(from, Math.min(to, total)), from, total });
  }
  tail(length: number): Promise<Piece> {
    const from = Math.max(0, this.bytes.length - length);
    return this.range(from, this.bytes.length);
  }
}

/** A file behind HTTP with ranges. */
export class UrlSource implements Source {
  readonly url: string;
  readonly headers: Record<string, string>;
  constructor(url: string, headers: Record<string, string>) {
    this.url = url;
    this.headers = headers;
  }
  range(from: number, to: number): Promise<Piece> {
    return this.fetch(`bytes=${from}-${to - 1}`, from);
  }
  tail(length: number): Promise<Piece> {
    return this.fetch(`bytes=-${length}`, null);
  }

  private async fetch(range: string, from: number | null): Promise<Piece> {
    const response = await fetch(this.url, {
      headers: { ...this.headers, Range: range }, cache: "no-store", credentials: "omit",
    });
    const said = /^bytes (?:(\d+)-\d+|\*)\/(\d+)$/.exec(response.headers.get("Content-Range") ?? "");
    if (response.status === 416) {
      return { bytes: new Uint8Array(), from: from ?? 0, total: Number(said?.[2] ?? 0) };
    }
    if (!response.ok) throw new ReplayError(await reason(response));
    const bytes = new Uint8Array(await response.arrayBuffer());
    if (response.status === 206 && said) return { bytes, from: Number(said[1]), total: Number(said[2]) };
    // Something in between does not do ranges: the whole file came.
    const whole = new BytesSource(bytes);
    const match = /^bytes=(\d*)-(\d*)$/.exec(range);
    return from === null ? whole.tail(Number(match?.[2])) : whole.range(from, Number(match?.[2]) + 1);
  }
}

async function reason(response: Response): Promise<string> {
  try {
    const refusal = (await response.json()) as { message?: string };
    if (refusal.message) return refusal.message;
  } catch {
    // Not JSON: the status says all there is.
  }
  return `the server answered ${response.status}`;
}
