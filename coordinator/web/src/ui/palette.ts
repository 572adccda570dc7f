/** The colours of the style sheet, for what is drawn on canvases. */

export type Rgb = [number, number, number];
export type Palette = { back: Rgb; front: Rgb; quiet: Rgb; edge: Rgb; states: Rgb[]; line: Rgb };

/** Reads them from the page: the scheme decides what they are. */
export function palette(): Palette {
  const style = getComputedStyle(document.documentElement);
  const read = (name: string) => rgb(style.getPropertyValue(name).trim());
  return {
    back: read("--canvas"), front: read("--text"), quiet: read("--muted"), edge: read("--edge"), line: read("--line"),
    states: Array.from({ length: 13 }, (_, state) => read(`--state-${state}`)),
  };
}

/** A colour as the style sheet writes them, `#rrggbb`. */
export function rgb(text: string): Rgb {
  const number = Number.parseInt(text.slice(1), 16);
  return [(number >> 16) & 255, (number >> 8) & 255, number & 255];
}

export function css([red, green, blue]: Rgb): string {
  return `rgb(${red} ${green} ${blue})`;
}
