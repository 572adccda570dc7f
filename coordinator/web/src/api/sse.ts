/** Server-sent events from bytes, as https://html.spec.whatwg.org/multipage/server-sent-events.html parses them. Pure. */

export type Message = { id: string; event: string; data: string };

export class SseParser {
  private rest = "";
  private event = "";
  private data: string[] = [];
  /** Of the last message that had one: where to go on. */
  lastId = "";
  /** Milliseconds to wait before asking again, when the server has said so. */
  retry: number | null = null;

  /** The messages that are complete with this text. */
  push(text: string): Message[] {
    const found: Message[] = [];
    const lines = (this.rest + text).split(/\r\n|\n|\r/);
    this.rest = lines.pop() ?? "";
    for (const line of lines) {
      if (line === "") this.flush(found);
      else this.field(line);
    }
    return found;
  }

  private flush(found: Message[]): void {
    if (this.data.length > 0) {
      found.push({ id: this.lastId, event: this.event || "message", data: this.data.join("\n") });
    }
    this.event = "";
    this.data = [];
  }

  private field(line: string): void {
    const colon = line.indexOf(":");
    if (colon === 0) return;
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "data") this.data.push(value);
    else if (name === "event") this.event = value;
    else if (name === "id" && !value.includes("\0")) this.lastId = value;
    else if (name === "retry" && /^\d+$/.test(value)) this.retry = Number(value);
  }
}
