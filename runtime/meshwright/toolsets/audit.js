// Examines a rendered page for the toolset `design`: contrast, layout, structure. Returns plain data.
// It runs in a world of its own, so nothing that the page has replaced is called.
(() => {
  const MOST = 12; // findings of one rule
  const findings = [], counts = {};
  const find = (rule, element, detail) => {
    counts[rule] = (counts[rule] || 0) + 1;
    if (counts[rule] <= MOST) findings.push({ rule, element: name(element), detail });
  };

  const name = (element) => {
    if (!element) return "page";
    const marks = [element.tagName.toLowerCase()];
    if (element.id) marks.push("#" + element.id);
    for (const one of [...element.classList].slice(0, 2)) marks.push("." + one);
    const text = (element.innerText || element.getAttribute("aria-label") || "").trim().replace(/\s+/g, " ");
    return marks.join("") + (text ? ` "${text.slice(0, 40)}"` : "");
  };

  const seen = (element) => {
    if (!element.checkVisibility({ opacityProperty: true, visibilityProperty: true })) return false;
    const box = element.getBoundingClientRect();
    return box.width > 1 && box.height > 1; // smaller is text for those who do not see it
  };

  // Colours, of any notation, as red, green, blue and opacity.
  const context = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const known = new Map();
  const rgba = (text) => {
    if (!known.has(text)) {
      context.clearRect(0, 0, 1, 1);
      context.fillStyle = "#000";
      context.fillStyle = text;
      context.fillRect(0, 0, 1, 1);
      const [r, g, b, a] = context.getImageData(0, 0, 1, 1).data;
      known.set(text, [r, g, b, a / 255]);
    }
    return known.get(text);
  };
  const over = ([r, g, b, a], below) => [r, g, b].map((value, n) => value * a + below[n] * (1 - a));
  const light = (colour) => {
    const [r, g, b] = colour.map((value) => {
      const part = value / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const hex = (colour) => "#" + colour.map((value) => Math.round(value).toString(16).padStart(2, "0")).join("");

  // What lies behind an element: null where a picture, a filter or a blend makes it unknown.
  const behind = (element) => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) {
      const style = getComputedStyle(at);
      const isMixed = style.mixBlendMode !== "normal" || style.filter !== "none";
      if (style.backgroundImage !== "none" || isMixed) return null;
      const colour = rgba(style.backgroundColor);
      if (colour[3] > 0) layers.push(colour);
      if (colour[3] === 1) break;
      if (style.position === "fixed") return null; // it may lie over anything
    }
    return layers.reduceRight((below, layer) => over(layer, below), [255, 255, 255]);
  };

  let measured = 0, unmeasured = 0;
  const texts = document.createTreeWalker(document.body || document, NodeFilter.SHOW_TEXT);
  const done = new Set();
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || done.has(element) || !seen(element)) continue;
    done.add(element);
    if (element.closest("[disabled], [aria-disabled=true], script, style, svg")) continue;
    const style = getComputedStyle(element);
    const ground = behind(element);
    if (!ground) { unmeasured++; continue; }
    measured++;
    let opacity = 1;
    for (let at = element; at; at = at.parentElement) opacity *= Number(getComputedStyle(at).opacity);
    const [r, g, b, a] = rgba(style.color);
    const ink = over([r, g, b, a * opacity], ground);
    const [bright, dark] = [light(ink), light(ground)].sort((one, other) => other - one);
    const ratio = (bright + 0.05) / (dark + 0.05);
    const size = parseFloat(style.fontSize), isBold = Number(style.fontWeight) >= 700;
    const least = size >= 24 || (isBold && size >= 18.66) ? 3 : 4.5;
    if (ratio < least) {
      find("contrast", element, `${ratio.toFixed(2)} to 1, needs ${least}: ${hex(ink)} on ${hex(ground)}`);
    }
  }

  // Layout at this width.
  const page = document.scrollingElement || document.documentElement, width = innerWidth;
  if (page.scrollWidth > width + 1) {
    find("overflow", null, `the page is ${page.scrollWidth} pixels wide in a window of ${width}`);
    const wide = [...document.body.querySelectorAll("*")].filter(
      (element) => seen(element) && element.getBoundingClientRect().right > width + 1);
    for (const element of wide.filter((one) => !wide.some((other) => other !== one && one.contains(other)))) {
      find("overflow", element, `ends at ${Math.round(element.getBoundingClientRect().right)} of ${width}`);
    }
  }
  for (const element of document.querySelectorAll("body *")) {
    const style = getComputedStyle(element);
    const isCut = style.overflowX === "hidden" && element.scrollWidth > element.clientWidth + 1;
    if (isCut && style.textOverflow !== "ellipsis" && element.clientWidth > 1 && element.innerText && seen(element)) {
      find("clipped", element, `shows ${element.clientWidth} of ${element.scrollWidth} pixels`);
    }
  }
  const controls = [...document.querySelectorAll(
    "a[href], button, input:not([type=hidden]), select, textarea, summary, [role=button], [role=link], [tabindex]",
  )].filter(seen);
  for (const element of controls) {
    const box = element.getBoundingClientRect();
    const isInText = getComputedStyle(element).display === "inline";
    if (!isInText && (box.width < 24 || box.height < 24)) {
      find("target-size", element, `${Math.round(box.width)} by ${Math.round(box.height)} pixels, needs 24 by 24`);
    }
    const x = box.left + box.width / 2, y = box.top + box.height / 2;
    const top = x >= 0 && y >= 0 && x < width && y < innerHeight ? document.elementFromPoint(x, y) : null;
    const isLabel = top && [...(element.labels || [])].some((label) => label.contains(top));
    if (top && !element.contains(top) && !top.contains(element) && !isLabel) {
      find("covered", element, `lies under ${name(top)}`);
    }
    if (element.tabIndex > 0) find("tab-order", element, `tabindex ${element.tabIndex} changes the order of keys`);
  }

  // Structure.
  if (!document.title.trim()) find("title", null, "it has no title");
  if (!document.documentElement.lang) find("language", null, "html has no lang");
  const viewport = document.querySelector("meta[name=viewport]")?.content || "";
  if (!viewport) find("viewport", null, "it has no meta viewport: phones show it as on a desk");
  if (/user-scalable\s*=\s*(no|0)|maximum-scale\s*=\s*(1(\.\d+)?|0)\s*(,|$)/.test(viewport)) {
    find("viewport", null, "it forbids to zoom");
  }
  const headings = [...document.querySelectorAll("h1, h2, h3, h4, h5, h6")].filter(seen);
  const firsts = headings.filter((heading) => heading.tagName === "H1").length;
  if (firsts !== 1) find("headings", null, `it has ${firsts} h1`);
  headings.forEach((heading, n) => {
    const [level, before] = [heading, headings[n - 1]].map((one) => Number(one?.tagName[1] || 0));
    if (n && level > before + 1) find("headings", heading, `h${level} follows h${before}`);
  });
  const ids = {};
  for (const element of document.querySelectorAll("[id]")) {
    if ((ids[element.id] = (ids[element.id] || 0) + 1) === 2) find("duplicate-id", element, "the id occurs again");
  }
  if (!document.querySelector("main, [role=main]")) find("landmarks", null, "it has no main");

  const more = Object.entries(counts).filter(([, count]) => count > MOST).map(([rule, count]) => [rule, count - MOST]);
  return { title: document.title, findings, more: Object.fromEntries(more), texts: { measured, unmeasured } };
})()
