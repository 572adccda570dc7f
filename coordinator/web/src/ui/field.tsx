/** A text that filters while it is typed. */

import { useEffect, useRef } from "preact/hooks";

/** Not every letter is worth a question. */
const SETTLE_MS = 250;

export type FieldProps = {
  value: string; set: (value: string) => void; placeholder?: string; size?: number; mono?: boolean;
};

export function Field({ value, set, placeholder, size, mono = false }: FieldProps) {
  const timer = useRef<ReturnType<typeof setTimeout>>(undefined);
  const input = useRef<HTMLInputElement>(null);
  useEffect(() => () => clearTimeout(timer.current), []);
  useEffect(() => {
    // What is being typed is not overwritten by what was asked for a moment ago.
    if (input.current && document.activeElement !== input.current) input.current.value = value;
  }, [value]);
  const later = (text: string, wait: number) => {
    clearTimeout(timer.current);
    timer.current = setTimeout(() => set(text), wait);
  };
  return (
    <input ref={input} type="search" class={mono ? "mono" : undefined} defaultValue={value} size={size} placeholder={placeholder}
      spellcheck={false} autocomplete="off"
      onInput={(event) => later(event.currentTarget.value, SETTLE_MS)} onChange={(event) => later(event.currentTarget.value, 0)} />
  );
}
