"use strict";
// The views of the page, one of which is shown at a time, and helpers for the other scripts.
//
// The address of a view is `#/NAME/PART/...?FILTER=VALUE&...` (see routes.py). A script adds a view
// with `page.addView(name, open)`. `open(parts, query)` gets the decoded parts of the address and its
// URLSearchParams; it returns the elements to show, each of class `view`, or null if there is no such
// view. It is also called when only the query has changed. `page.setQuery(query)` writes filters into
// the address. A view that opens with filters is scrolled to its part with `data-filtered`, if any.
const page = (() => {
  const SVG = "http://www.w3.org/2000/svg";
  const root = document.documentElement;
  const title = document.title;
  const views = new Map();
  const starts = [];
  // Scroll positions of the views, by their address without the query.
  const positions = new Map();
  let shown = null;

  const queryAll = (selector, within = document) => [...within.querySelectorAll(selector)];
  const percent = (share) => `${100 * share}%`;
  // The JSON value in a script element of the page.
  const readData = (id) => JSON.parse(document.getElementById(id).textContent);

  function setAttributes(element, attributes) {
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  }

  function createSvg(name, attributes, text) {
    const element = document.createElementNS(SVG, name);
    setAttributes(element, attributes);
    if (text !== undefined) element.textContent = text;
    return element;
  }

  // Return [path, query] of an address; null if it is that of an element, not of a view.
  function parse(hash) {
    const address = hash.slice(1);
    if (address && !address.startsWith("/")) return null;
    const [path, ...rest] = address.split("?");
    return [path || "/", new URLSearchParams(rest.join("?"))];
  }

  function decoded(path) {
    try {
      return path.split("/").slice(1).map(decodeURIComponent);
    } catch {
      return null;
    }
  }

  function find(path, query) {
    const parts = decoded(path);
    const open = parts && views.get(parts[0]);
    return open ? open(parts.slice(1), query) : null;
  }

  function show(event) {
    const parsed = parse(location.hash);
    const [path, query] = parsed || ["/", new URLSearchParams()];
    const elements = find(path, query);
    document.getElementById("missing").hidden = elements !== null;
    const open = new Set(elements || find("/", query));
    if (shown !== null && shown !== path) positions.set(shown, window.scrollY);
    queryAll(".view").forEach((view) => view.classList.toggle("open", open.has(view)));
    const isFront = path === "/" || elements === null;
    root.classList.toggle("on-front", isFront);
    const heading = isFront ? null : [...open][0].querySelector("h2");
    document.title = heading ? `${heading.textContent.trim()} · ${title}` : title;
    const isOther = shown !== path;
    shown = path;
    document.dispatchEvent(new Event("viewchange"));
    const filtered = query.toString() && [...open][0].querySelector("[data-filtered]");
    if (parsed === null) {
      document.getElementById(location.hash.slice(1))?.scrollIntoView();
    } else if (isOther) {
      if (event) [...open][0].focus({ preventScroll: true });
      if (filtered && !positions.has(path)) filtered.scrollIntoView();
      else if (event) window.scrollTo(0, positions.get(path) || 0);
    }
  }

  function setQuery(query) {
    const text = query.toString();
    history.replaceState(history.state, "", `#${shown}${text ? `?${text}` : ""}`);
  }

  document.addEventListener("DOMContentLoaded", () => {
    // Its address would be that of the front.
    document.querySelector(".skip").addEventListener("click", (event) => {
      event.preventDefault();
      document.getElementById("main").focus();
    });
    starts.forEach((start) => start());
    history.scrollRestoration = "manual";
    window.addEventListener("hashchange", show);
    show();
  });
  views.set("", () => queryAll(".view.front-page"));

  return {
    addView: (name, open) => views.set(name, open),
    // Call a function when the page is complete, before the first view is shown.
    whenReady: (start) => starts.push(start),
    setQuery, queryAll, percent, readData, setAttributes, createSvg,
  };
})();
