/**
 * Calls of the API. What goes wrong is a value and never an exception: a page shows it and goes on.
 *
 * In an exported page the answers are inside the file, and there is no server to ask.
 */

import { signal } from "@preact/signals";
import type { Refusal } from "./types.ts";

/** Why there is no answer. `status` 0 is a server that cannot be reached. */
export type Problem = Refusal & { status: number };
export type Answer<T> = { ok: true; value: T } | { ok: false; problem: Problem };

const BASE = "/api/v1";
const TOKEN_KEY = "groundswell-token";

/** The token of this tab; it ends with the tab. */
export const token = signal(stored());
/** Whether the server wants a token, or another one than it got. */
export const wantsToken = signal<Problem | null>(null);

/** The answers of an exported page, by path. */
let exported: Map<string, Uint8Array> | null = null;
export const isExport = () => exported !== null;
export const exportInfo = signal<{ run: string; made_ms: number; version: string } | null>(null);

/** Takes answers from a file from now on. */
export function useAnswers(answers: Map<string, Uint8Array>): void {
  exported = answers;
}

/** Remembers a token for this tab. The empty text forgets it. */
export function setToken(text: string): void {
  token.value = text.trim();
  wantsToken.value = null;
  try {
    if (token.value === "") sessionStorage.removeItem(TOKEN_KEY);
    else sessionStorage.setItem(TOKEN_KEY, token.value);
  } catch {
    // A browser that stores nothing asks again after a reload.
  }
}

function stored(): string {
  try {
    return sessionStorage.getItem(TOKEN_KEY) ?? "";
  } catch {
    return "";
  }
}

export function headers(more: Record<string, string> = {}): Record<string, string> {
  return token.value === "" ? more : { ...more, Authorization: `Bearer ${token.value}` };
}

export async function getJson<T>(path: string, abort?: AbortSignal): Promise<Answer<T>> {
  return parsed<T>(await get(path, {}, abort));
}

export async function getText(path: string, abort?: AbortSignal): Promise<Answer<string>> {
  const answer = await get(path, {}, abort);
  return answer.ok ? { ok: true, value: new TextDecoder().decode(answer.value) } : answer;
}

export async function post<T>(path: string, body: unknown): Promise<Answer<T>> {
  const init = { method: "POST", body: JSON.stringify(body), headers: headers({ "X-Groundswell": "1" }) };
  return parsed<T>(await request(path, init));
}

/** The bytes of a path. */
export async function get(
  path: string, more: Record<string, string> = {}, abort?: AbortSignal,
): Promise<Answer<Uint8Array>> {
  if (exported) {
    const found = exported.get(path);
    return found ? { ok: true, value: found } : { ok: false, problem: notExported(path) };
  }
  return request(path, { headers: headers(more), signal: abort ?? null });
}

/** The answer with its head, for streams and ranges. */
export async function open(path: string, init: RequestInit): Promise<Answer<Response>> {
  let response: Response;
  try {
    response = await fetch(BASE + path, { ...init, cache: "no-store", credentials: "omit" });
  } catch (error) {
    return { ok: false, problem: unreachable(error) };
  }
  if (response.ok) return { ok: true, value: response };
  const problem = await refused(response);
  if (problem.status === 401) wantsToken.value = problem;
  return { ok: false, problem };
}

async function request(path: string, init: RequestInit): Promise<Answer<Uint8Array>> {
  const answer = await open(path, init);
  if (!answer.ok) return answer;
  try {
    return { ok: true, value: new Uint8Array(await answer.value.arrayBuffer()) };
  } catch (error) {
    return { ok: false, problem: unreachable(error) };
  }
}

function parsed<T>(answer: Answer<Uint8Array>): Answer<T> {
  if (!answer.ok) return answer;
  try {
    return { ok: true, value: JSON.parse(new TextDecoder().decode(answer.value)) as T };
  } catch {
    const message = "the answer is not JSON: something between here and the coordinator has answered";
    return { ok: false, problem: { status: 200, kind: "invalid", message, help: "" } };
  }
}

async function refused(response: Response): Promise<Problem> {
  const { status } = response;
  try {
    const refusal = (await response.json()) as Partial<Refusal>;
    if (typeof refusal.message === "string") {
      return { status, kind: refusal.kind ?? "", message: refusal.message, help: refusal.help ?? "" };
    }
  } catch {
    // Not from the coordinator: a proxy, for example. The status says all there is.
  }
  return { status, kind: "", message: `the server answered ${status} ${response.statusText}`, help: "" };
}

function unreachable(error: unknown): Problem {
  const aborted = error instanceof DOMException && error.name === "AbortError";
  const message = aborted ? "given up" : "the coordinator cannot be reached";
  return { status: 0, kind: aborted ? "aborted" : "unavailable", message, help: "" };
}

function notExported(path: string): Problem {
  const message = "this file has no such part";
  return { status: 404, kind: "not_found", message, help: `${path} was not exported` };
}

/** A path with a query; what is empty is left out. */
export function withQuery(path: string, query: Record<string, string | number | undefined>): string {
  const parts = Object.entries(query).filter(([, value]) => value !== undefined && value !== "");
  if (parts.length === 0) return path;
  return `${path}?${parts.map(([key, value]) => `${key}=${encodeURIComponent(String(value))}`).join("&")}`;
}

/** The address of a file for a link. */
export function fileUrl(path: string): string {
  return BASE + path;
}
