// @ts-check
/** Icons as lines on a grid of 24, drawn in the colour of the text beside them, which says what they mean. */
import { html } from "./vendor/preact.js";

/** @type {Record<string, string>} */
const PATHS = {
  mark: "M4 18V6l8 8 8-8v12",
  inbox: "M4 13h4l2 3h4l2-3h4M4 13v6h16v-6M4 13l3-8h10l3 8",
  tasks: "M9 6h11M9 12h11M9 18h11M4 6h.5M4 12h.5M4 18h.5",
  schedules: "M12 7v5l3 2M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18",
  deliveries: "M4 7h16v11H4zM4 7l8 6 8-6",
  try: "M7 5l12 7-12 7z",
  mesh: "M6 6.5a2 2 0 1 0 0-.1M18 6.5a2 2 0 1 0 0-.1M12 18.5a2 2 0 1 0 0-.1M7.5 8l3.5 8M16.5 8L13 16M8 6h8",
  prompts: "M5 5h14v11H9l-4 4z",
  memory: "M5 7c0-2 14-2 14 0v10c0 2-14 2-14 0zM5 7c0 2 14 2 14 0M5 12c0 2 14 2 14 0",
  experiments: "M9 4h6M10 4v6l-5 9h14l-5-9V4",
  money: "M12 4v16M16 8c-1-2-7-2.500-7 .800S16 12 16 15.500 9 18 8 16",
  events: "M4 12h4l3-7 3 14 2.500-7H20",
  keys: "M14.500 9.500a4 4 0 1 0-3 3.900L13 15h2v2h2v2h3v-3z",
  configuration: "M5 7h8M17 7h2M5 17h2M11 17h8M13 5v4M7 15v4",
  agents: "M12 5a3 3 0 1 0 0 6 3 3 0 0 0 0-6M5 20c0-4 3-6 7-6s7 2 7 6",
  models: "M7 7h10v10H7zM10 7V4M14 7V4M10 20v-3M14 20v-3M7 10H4M7 14H4M20 10h-3M20 14h-3",
  other: "M5 5h6v6H5zM13 5h6v6h-6zM5 13h6v6H5zM13 13h6v6h-6z",
  well: "M5 12.500l4.500 4.500L19 7",
  trouble: "M12 4L2.500 20h19zM12 10v4M12 17h.1",
  lost: "M4 9a12 12 0 0 1 16 0M7 13a7 7 0 0 1 10 0M12 18h.1M4 4l16 16",
  menu: "M4 7h16M4 12h16M4 17h16",
};

/** @param {{name: string}} given */
export const Icon = ({ name }) => html`<svg class="icon" viewBox="0 0 24 24" aria-hidden="true"><path d=${PATHS[name] ?? PATHS.other} /></svg>`;
