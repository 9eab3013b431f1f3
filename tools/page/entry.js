// The libraries of the page under one name each. `build` makes one file of them.
import { h } from "preact";
import htm from "htm";

export { Fragment, render } from "preact";
export { useEffect, useRef, useState } from "preact/hooks";
export { batch, computed, effect, signal } from "@preact/signals";
export const html = htm.bind(h);
