"use strict";
(() => {
  const root = document.documentElement;
  const plots = JSON.parse(document.getElementById("plots").textContent);
  const tip = document.getElementById("tip");
  const SVG = "http://www.w3.org/2000/svg";
  const CARDS_SHOWN = 12;
  const LABEL_HEIGHT = 14;
  // Text anchor, share of the text left of it, and its distance from the mark across and down.
  const LABEL_PLACES = [["start", 0, 11, 0], ["end", 1, -11, 0], ["middle", 0.5, 0, -15], ["middle", 0.5, 0, 15]];

  const all = (selector, within = document) => [...within.querySelectorAll(selector)];

  function make(name, attributes, text) {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    return element;
  }

  // The plot: positions come from 0 to 1 and are stretched to the width there is.
  function plot(figure) {
    const data = plots[Number(figure.dataset.plot)];
    const svg = figure.querySelector("svg");
    const control = (role) => figure.querySelector(`[data-role=${role}]`);
    const points = all(".point", svg).sort((a, b) => a.dataset.row - b.dataset.row);
    const section = figure.closest(".group");
    const rows = new Map(all(".board tbody tr", section).map((row) => [row.dataset.row, row]));
    const { left, right, top, bottom } = data.margins;

    // Reported rows widen the axes only where they are shown and have a place.
    function reach(x) {
      return x.all && !document.body.classList.contains("hide-reported") ? "all" : "measured";
    }

    function draw() {
      const width = Math.max(280, figure.clientWidth);
      const height = Math.round(Math.min(420, Math.max(280, width * 0.56)));
      const x = data.x[control("x").value];
      const y = data.y[control("y").value];
      const kind = reach(x);
      const values = y[kind];
      const scale = (control("log").checked && x[kind].logarithmic) || x[kind].linear;
      control("log").disabled = !x[kind].logarithmic;
      const across = (place) => left + place * (width - left - right);
      const down = (place) => top + (1 - place) * (height - top - bottom);
      svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
      svg.setAttribute("aria-label", `${y.label} against ${x.label}`);
      drawTicks(scale, values, across, down, width, height);
      svg.querySelector(".axis-title.score").textContent = `${y.label}, percent (more is better)`;
      const title = svg.querySelector(".axis-title");
      title.textContent = `${x.label} (less is better)`;
      title.setAttribute("x", width - right);
      title.setAttribute("y", height - 8);

      const front = data.fronts[x.key][y.key];
      const taken = [];
      points.forEach((point, row) => {
        const place = scale.points[row];
        const value = values.points[row];
        const shown = place !== null && value !== null;
        point.setAttribute("visibility", shown ? "visible" : "hidden");
        point.setAttribute("tabindex", shown ? "0" : "-1");
        point.classList.toggle("on-front", front.includes(row));
        if (!shown) return;
        point.setAttribute("transform", `translate(${across(place)} ${down(value)})`);
        point.setAttribute("aria-label", `${data.labels[row]}: ${y.texts[row]}, ${x.label} ${x.texts[row]}`);
        const spread = values.spreads[row];
        const line = point.querySelector(".spread");
        line.setAttribute("y1", spread ? down(spread[0]) - down(value) : 0);
        line.setAttribute("y2", spread ? down(spread[1]) - down(value) : 0);
        taken.push({ x1: across(place) - 7, x2: across(place) + 7, y: down(value) });
      });
      drawLabels(taken, width);
      drawFront(front, scale, values, across, down);
    }

    function drawTicks(scale, values, across, down, width, height) {
      const vertical = svg.querySelector(".ticks-x");
      // On a narrow page labels would run into each other.
      const room = Math.max(1, Math.floor((width - left - right) / 66));
      const every = Math.ceil(scale.ticks.length / room);
      vertical.replaceChildren(
        ...scale.ticks.map(([place, label], number) => {
          const tick = make("g", {});
          const at = across(place);
          tick.append(make("line", { x1: at, x2: at, y1: top, y2: height - bottom }));
          if (number % every === 0) tick.append(make("text", { x: at, y: height - bottom + 16 }, label));
          return tick;
        }),
      );
      svg.querySelector(".ticks-y").replaceChildren(
        ...values.ticks.map(([place, label]) => {
          const tick = make("g", {});
          const at = down(place);
          tick.append(make("line", { x1: left, x2: width - right, y1: at, y2: at }));
          tick.append(make("text", { x: left - 8, y: at + 4 }, label));
          return tick;
        }),
      );
    }

    // The front's labels first. Where all of a label has no room, its method alone may have; else
    // the tooltip has it.
    function drawLabels(taken, width) {
      const onFront = (point) => point.classList.contains("on-front");
      for (const point of [...points].sort((a, b) => onFront(b) - onFront(a))) {
        const text = point.querySelector("text");
        text.setAttribute("visibility", "hidden");
        if (point.getAttribute("visibility") === "hidden") continue;
        const label = data.labels[point.dataset.row];
        placeLabel(point, text, label, taken, width)
          || placeLabel(point, text, label.split(" (")[0], taken, width);
      }
    }

    // A label goes right of its mark, else left of it, above or below.
    function placeLabel(point, text, label, taken, width) {
      const [, x, y] = point.getAttribute("transform").match(/\(([^ ]+) ([^)]+)\)/).map(Number);
      text.textContent = label;
      const length = text.getComputedTextLength();
      for (const [anchor, share, offset, drop] of LABEL_PLACES) {
        const from = x + offset - share * length;
        const box = { x1: from, x2: from + length, y: y + drop };
        const free = from >= left && box.x2 <= width - 2 && !taken.some(
          (other) => Math.abs(other.y - box.y) < LABEL_HEIGHT && other.x1 < box.x2 && other.x2 > box.x1,
        );
        if (!free) continue;
        text.setAttribute("x", offset);
        text.setAttribute("y", drop + 4);
        text.setAttribute("text-anchor", anchor);
        text.setAttribute("visibility", "inherit");
        taken.push(box);
        return true;
      }
      return false;
    }

    function drawFront(front, scale, values, across, down) {
      const corners = [];
      let last = null;
      for (const row of front) {
        const at = [across(scale.points[row]), down(values.points[row])];
        if (last) corners.push([at[0], last[1]]);
        corners.push(at);
        last = at;
      }
      svg.querySelector(".front").setAttribute("points", corners.map((c) => c.join(",")).join(" "));
    }

    function choose(row, scroll) {
      const again = points[row] && points[row].classList.contains("chosen");
      points.forEach((point, number) => point.classList.toggle("chosen", number === row && !again));
      for (const [number, element] of rows) {
        element.classList.toggle("chosen", Number(number) === row && !again);
      }
      const element = rows.get(String(row));
      if (scroll && element && !again) element.scrollIntoView({ block: "nearest" });
    }

    function showTip(point, row) {
      const x = data.x[control("x").value];
      const y = data.y[control("y").value];
      const kind = row >= data.measured ? "\nreported, not measured here" : "";
      tip.textContent = `${data.labels[row]}\n${y.label}: ${y.texts[row]}\n${x.label}: ${x.texts[row]}${kind}`;
      tip.hidden = false;
      const mark = point.querySelector(".mark").getBoundingClientRect();
      const widest = root.clientWidth - tip.offsetWidth - 8;
      const beside = Math.min(widest, Math.max(8, mark.left + mark.width / 2 - tip.offsetWidth / 2));
      const above = mark.top - tip.offsetHeight - 10;
      tip.style.left = `${beside + window.scrollX}px`;
      tip.style.top = `${(above > 4 ? above : mark.bottom + 10) + window.scrollY}px`;
    }

    points.forEach((point, row) => {
      point.addEventListener("pointerenter", () => showTip(point, row));
      point.addEventListener("pointerleave", () => { tip.hidden = true; });
      point.addEventListener("focus", () => showTip(point, row));
      point.addEventListener("blur", () => { tip.hidden = true; });
      // On a touch screen the table would take the place of the mark and what it says.
      point.addEventListener("click", (event) => choose(row, event.pointerType !== "touch"));
      point.addEventListener("keydown", (event) => {
        if (event.key === "Enter" || event.key === " ") {
          event.preventDefault();
          choose(row, true);
        } else if (event.key === "Escape") {
          tip.hidden = true;
        }
      });
    });
    for (const [number, element] of rows) {
      element.addEventListener("click", (event) => {
        if (!event.target.closest("a")) choose(Number(number), false);
      });
    }
    control("x").addEventListener("change", () => {
      const x = data.x[control("x").value];
      control("log").checked = x[reach(x)].scale === "logarithmic";
      draw();
    });
    control("y").addEventListener("change", draw);
    control("log").addEventListener("change", draw);
    new ResizeObserver(draw).observe(figure);
    return draw;
  }

  // Tables sort by the column that is pressed; what was not measured stays last.
  function sortable(table) {
    const headers = all("thead th", table);
    headers.forEach((header, column) => {
      header.querySelector("button").addEventListener("click", () => {
        const now = header.getAttribute("aria-sort");
        const isText = header.dataset.kind === "text";
        const first = header.dataset.first || (isText ? "ascending" : "descending");
        const other = first === "ascending" ? "descending" : "ascending";
        const direction = now === first ? other : first;
        headers.forEach((each) => each.setAttribute("aria-sort", "none"));
        header.setAttribute("aria-sort", direction);
        const sign = direction === "ascending" ? 1 : -1;
        for (const body of table.tBodies) {
          const value = (row) => row.cells[column].dataset.value;
          const sorted = [...body.rows].sort((a, b) => {
            const [left, right] = [value(a), value(b)];
            if (isText) return sign * left.localeCompare(right);
            if (left === "" || right === "") return (left === "") - (right === "");
            return sign * (Number(left) - Number(right));
          });
          body.append(...sorted);
        }
      });
    });
  }

  // Examples: right or wrong, with a text, a page at a time.
  function browser(sheet) {
    const cards = all(".card", sheet);
    if (!cards.length) return;
    const choices = all("[data-show]", sheet);
    const search = sheet.querySelector("[data-role=search]");
    const turns = all("[data-step]", sheet);
    const texts = cards.map((card) =>
      all(".prompt, .said, .people, .id", card).map((part) => part.textContent).join("\n").toLowerCase(),
    );
    let show = "all";
    let page = 0;

    for (const choice of choices) {
      const kind = choice.dataset.show;
      const count = kind === "all" ? cards.length : cards.filter((c) => c.classList.contains(kind)).length;
      choice.textContent = `${kind} ${count}`;
    }

    function draw() {
      const wanted = search.value.trim().toLowerCase();
      const found = cards.filter(
        (card, number) =>
          (show === "all" || card.classList.contains(show)) && texts[number].includes(wanted),
      );
      const pages = Math.max(1, Math.ceil(found.length / CARDS_SHOWN));
      page = Math.min(page, pages - 1);
      const shown = new Set(found.slice(page * CARDS_SHOWN, (page + 1) * CARDS_SHOWN));
      cards.forEach((card) => { card.hidden = !shown.has(card); });
      const from = page * CARDS_SHOWN + 1;
      sheet.querySelector("output").textContent = found.length
        ? `${from}–${from + shown.size - 1} of ${found.length}`
        : "none";
      for (const turn of turns) {
        const to = page + Number(turn.dataset.step);
        turn.disabled = to < 0 || to >= pages;
      }
    }

    for (const choice of choices) {
      choice.addEventListener("click", () => {
        show = choice.dataset.show;
        page = 0;
        choices.forEach((each) => each.setAttribute("aria-pressed", String(each === choice)));
        draw();
      });
    }
    for (const turn of turns) {
      turn.addEventListener("click", () => { page += Number(turn.dataset.step); draw(); });
    }
    search.addEventListener("input", () => { page = 0; draw(); });
    draw();
  }

  // `#run-...` shows the page of a run, anything else the leaderboard.
  const draws = all(".plot").map(plot);
  const title = document.title;
  function route(event) {
    const name = location.hash.slice(1);
    const target = name && document.getElementById(name);
    const isRun = Boolean(target && target.matches("article.run"));
    tip.hidden = true;
    all("article.run").forEach((run) => run.classList.toggle("open", run === target));
    root.classList.toggle("in-run", isRun);
    document.title = isRun ? `${target.querySelector("h2").textContent} · ${title}` : title;
    if (!event) return;
    if (isRun) {
      target.focus({ preventScroll: true });
      window.scrollTo(0, 0);
    } else if (target) {
      target.scrollIntoView();
    }
  }

  all(".group table.board").forEach(sortable);
  all(".sheet").forEach(browser);
  const reported = document.getElementById("show-reported");
  if (reported) {
    const toggle = () => {
      document.body.classList.toggle("hide-reported", !reported.checked);
      draws.forEach((draw) => draw());
    };
    reported.addEventListener("change", toggle);
    toggle();
  }
  window.addEventListener("hashchange", route);
  route();
})();
