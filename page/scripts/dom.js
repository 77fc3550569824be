// Elements and messages of the page.
const SVG = "http://www.w3.org/2000/svg";

export const $ = id => document.getElementById(id);

export function make(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}
export function draw(tag, attributes = {}, text = "") {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.textContent = text;
  return node;
}

export function complain(...sentences) {
  $("problem").hidden = sentences.length === 0;
  $("problem").textContent = sentences.join("\n");
  if (sentences.length) $("problem").scrollIntoView({ block: "nearest" });
}
export const tried = action => async (...values) => {
  try {
    await action(...values);
  } catch (error) {
    complain(error.message);
  }
};
