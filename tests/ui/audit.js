// What can be checked of accessibility without a person: names, headings, landmarks, contrast, targets, overflow.
() => {
  const problems = [];
  const shown = (e) => e.checkVisibility({ opacityProperty: true, visibilityProperty: true }) && e.getClientRects().length > 0;
  const say = (what, e) => problems.push(`${what}: ${e.outerHTML.replace(/<!---->/g, "").slice(0, 160)}`);
  const text = (e) => (e.innerText || "").trim();
  const name = (e) => (e.getAttribute("aria-label") || (e.getAttribute("aria-labelledby") && "x") || text(e) || e.title
    || (e.labels && [...e.labels].map(text).join("")) || e.querySelector("img[alt]")?.alt || "").trim();

  for (const e of document.querySelectorAll("a[href], button, input, select, textarea, [role=button], [tabindex='0']"))
    if (shown(e) && e.type !== "file" && !name(e)) say("no name", e);

  const heads = [...document.querySelectorAll("h1, h2, h3, h4")].filter(shown);
  if (heads.filter((h) => h.tagName === "H1").length !== 1) problems.push(`headings of the first level: ${heads.filter((h) => h.tagName === "H1").length}`);
  heads.reduce((before, h) => { const level = Number(h.tagName[1]); if (level > before + 1) say("skips a level", h); return level; }, 0);

  if (!document.querySelector("main")) problems.push("no main");
  for (const nav of document.querySelectorAll("nav")) if (shown(nav) && !nav.getAttribute("aria-label")) say("nav without a name", nav);
  if (!/^(en|zh-CN)$/.test(document.documentElement.lang)) problems.push(`language ${document.documentElement.lang}`);
  if (!document.title) problems.push("no title");

  const ids = [...document.querySelectorAll("[id]")].map((e) => e.id).filter(Boolean);
  for (const id of new Set(ids.filter((id, i) => ids.indexOf(id) !== i))) problems.push(`id twice: ${id}`);

  for (const e of document.querySelectorAll("button, .wb-button, nav a, input[type=checkbox], input[type=radio]")) {
    const box = (e.closest("label") || e).getBoundingClientRect();
    if (shown(e) && (box.width < 24 || box.height < 24) && !e.closest(".icon-button-wrapper")) say(`target ${box.width}x${box.height}`, e);
  }

  // contrast: of each text against what is painted behind it
  const parse = (c) => { const m = c.match(/[\d.]+/g).map(Number); return c.startsWith("color(srgb") ? [m[0] * 255, m[1] * 255, m[2] * 255, m[3] ?? 1] : [m[0], m[1], m[2], m[3] ?? 1]; };
  const over = (a, b) => [0, 1, 2].map((i) => a[i] * a[3] + b[i] * (1 - a[3])).concat(1);
  const light = (c) => { const [r, g, b] = c.map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = (e) => { const layers = []; for (let at = e; at; at = at.parentElement) { const c = parse(getComputedStyle(at).backgroundColor); if (c[3] > 0) layers.push(c); if (c[3] === 1) break; }
    return layers.reverse().reduce((ground, layer) => over(layer, ground), [255, 255, 255, 1]); };
  const seen = new Set();
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement;
    if (!walk.currentNode.textContent.trim() || seen.has(e) || !shown(e) || e.closest("[disabled], [aria-hidden=true], .wb-skip, .wb-sr, script, style, noscript")) continue;
    seen.add(e);
    const style = getComputedStyle(e), ground = behind(e), ink = over(parse(style.color), ground);
    const [high, low] = [light(ink), light(ground)].sort((a, b) => b - a), ratio = (high + 0.05) / (low + 0.05);
    const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && Number(style.fontWeight) >= 700);
    if (ratio < (large ? 3 : 4.5)) say(`contrast ${ratio.toFixed(2)} ${style.color}`, e);
  }

  if (document.documentElement.scrollWidth > innerWidth) problems.push(`wider than the screen: ${document.documentElement.scrollWidth} > ${innerWidth}`);
  return problems;
}
