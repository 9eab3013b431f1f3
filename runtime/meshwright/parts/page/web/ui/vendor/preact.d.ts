// The types of what the page uses of preact.js, for `tsc`: see tests/parts/integration/test_page.py.
export interface Signal<T> { value: T; peek(): T }
export function signal<T>(value: T): Signal<T>;
export function computed<T>(work: () => T): { readonly value: T };
export function effect(work: () => void): () => void;
export function batch<T>(work: () => T): T;
export function useEffect(work: () => void | (() => void), of?: unknown[]): void;
export function useRef<T>(value?: T): { current: T };
export function useState<T>(value: T): [T, (next: T | ((before: T) => T)) => void];
export function render(what: unknown, where: HTMLElement): void;
export function html(texts: TemplateStringsArray, ...values: unknown[]): any;
export const Fragment: unknown;
