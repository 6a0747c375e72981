// Finds what does not fit: run in a browser on a finished page. Reports into the page, as text.
const found = [];
const inside = (inner, outer) => inner.left >= outer.left - 1 && inner.right <= outer.right + 1;
const name = (element) => `${element.tagName.toLowerCase()} "${element.textContent.trim().slice(0, 40)}"`;
const root = document.documentElement;
if (root.scrollWidth > root.clientWidth)
  found.push(`the page is ${root.scrollWidth} px wide in a window of ${root.clientWidth}`);
for (const scroll of document.querySelectorAll(".scroll"))
  if (root.clientWidth >= 1200 && scroll.scrollWidth > scroll.clientWidth)
    found.push(`a table of ${scroll.scrollWidth} px in ${scroll.clientWidth}: ${name(scroll)}`);
for (const svg of document.querySelectorAll("svg")) {
  const texts = [...svg.querySelectorAll("text")].map((text) => [text, text.getBoundingClientRect()]);
  texts.forEach(([text, box], index) => {
    if (!inside(box, svg.getBoundingClientRect())) found.push(`cut off: ${name(text)}`);
    for (const [other, at] of texts.slice(index + 1)) {
      const across = Math.min(box.right, at.right) - Math.max(box.left, at.left);
      const down = Math.min(box.bottom, at.bottom) - Math.max(box.top, at.top);
      if (across > 1 && down > 3) found.push(`overlap: ${name(text)} and ${name(other)}`);
    }
  });
}
// The contrast of text, as the Web Content Accessibility Guidelines define it.
const luminance = (colour) => {
  const parts = colour.match(/[\d.]+/g).slice(0, 3).map((part) => part / 255);
  const [r, g, b] = parts.map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const page = luminance(getComputedStyle(document.body).backgroundColor);
const contrast = (colour) => {
  const [low, high] = [luminance(colour), page].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
};
for (const selector of ["body", ".note", "svg text:not(.inside)"]) {
  const element = document.querySelector(selector);
  if (!element) continue;
  const style = getComputedStyle(element);
  const ratio = contrast(element.closest("svg") ? style.fill : style.color);
  if (ratio < 4.5) found.push(`a contrast of ${ratio.toFixed(1)}: ${selector}`);
}
found.push(`theme: ${page > 0.5 ? "light" : "dark"}`);
document.body.innerHTML = "<pre></pre>";
document.body.firstChild.textContent = found.map((line) => `LAYOUT ${line.replace(/\s+/g, " ")}`).join("\n");
