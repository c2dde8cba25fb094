// Plots of scores against costs; see `scatter_plot` in plot.py for the data.
(() => {
  const { queryAll, percent, setAttributes, createSvg } = page;
  const plots = page.readData("plots");
  const tip = document.getElementById("tip");
  const LABEL_HEIGHT = 14;
  const TICK_WIDTH = 66;
  const MAX_LABELLED_MARKS = 24;
  const STEPS = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 };
  // Text anchor, share of the text that lies left of it, and its offset from the mark (x, y).
  const LABEL_PLACES = [["start", 0, 11, 0], ["end", 1, -11, 0], ["middle", 0.5, 0, -15], ["middle", 0.5, 0, 15]];

  // Make a plot interactive and return its function `draw`.
  function setUpPlot(figure) {
    const data = plots[Number(figure.dataset.plot)];
    const chart = figure.querySelector(".chart");
    const svg = chart.querySelector("svg");
    const control = (role) => figure.querySelector(`[data-role=${role}]`);
    const points = queryAll(".point", svg).sort((a, b) => a.dataset.row - b.dataset.row);
    const rows = new Map(queryAll(".headline [data-row]", figure.closest(".table")).map((row) => [Number(row.dataset.row), row]));

    // Reported rows extend the axes only while they are shown.
    const extent = (x) => (x.all && !document.body.classList.contains("hide-reported") ? "all" : "measured");
    const axes = () => [data.x[control("x").value], data.y[control("y").value]];

    // Rows whose marks are shown, from left to right. One of them is a stop of the tab key, and arrow
    // keys lead to the others.
    let order = [];

    function draw() {
      const [x, y] = axes();
      const costs = x[extent(x)];
      const scores = y[extent(x)];
      const scale = (control("log").checked && costs.logarithmic) || costs.linear;
      const front = data.fronts[x.key][y.key];
      control("log").disabled = !costs.logarithmic;
      svg.setAttribute("aria-label", `${y.label} against ${x.label}`);
      control("x-title").textContent = `${x.label} (lower is better)`;
      control("y-title").textContent = `${y.label}, percent (higher is better)`;
      drawTicks(scale.ticks, scores.ticks);
      queryAll(".floors g", svg).forEach((floor, number) => {
        const height = percent(1 - scores.floors[number]);
        setAttributes(floor.querySelector("line"), { y1: height, y2: height });
        floor.querySelector("text").setAttribute("y", height);
      });
      queryAll(".series", svg).forEach((line, number) => {
        const rows = data.series[number].rows.filter((row) => scale.positions[row] !== null);
        line.setAttribute("points", rows.map((row) => `${scale.positions[row]},${1 - scores.positions[row]}`).join(" "));
      });
      points.forEach((point, row) => {
        const across = scale.positions[row];
        const up = scores.positions[row];
        const isShown = across !== null && up !== null;
        setAttributes(point, { visibility: isShown ? "visible" : "hidden", tabindex: -1 });
        point.classList.toggle("on-front", front.includes(row));
        if (!isShown) return;
        const [low, high] = scores.spreads[row] || [up, up];
        setAttributes(point, { x: percent(across), y: percent(1 - up), "aria-label": `${data.labels[row]}: ${y.texts[row]}, ${x.label} ${x.texts[row]}` });
        setAttributes(point.querySelector(".spread"), { y1: percent(up - low), y2: percent(up - high) });
      });
      order = [...points.keys()]
        .filter((row) => scale.positions[row] !== null && scores.positions[row] !== null)
        .sort((a, b) => scale.positions[a] - scale.positions[b]);
      points[order.includes(front[0]) ? front[0] : order[0]]?.setAttribute("tabindex", 0);
      drawLabels(scale.positions, scores.positions);
      // The front as steps: no method is known between two of its points.
      const corners = front.map((row, number) => {
        const corner = [scale.positions[row], 1 - scores.positions[row]];
        return number ? `${corner[0]},${1 - scores.positions[front[number - 1]]} ${corner}` : `${corner}`;
      });
      svg.querySelector(".front").setAttribute("points", corners.join(" "));
    }

    function drawTicks(xTicks, yTicks) {
      // Label only some ticks on a narrow page.
      const stride = Math.ceil(xTicks.length / Math.max(1, Math.floor(chart.clientWidth / TICK_WIDTH)));
      const tick = (line, place, label) => {
        const group = createSvg("g", {});
        group.append(createSvg("line", line), createSvg("text", place, label));
        return group;
      };
      svg.querySelector(".ticks-x").replaceChildren(...xTicks.map(([position, label], number) => {
        const x = percent(position);
        return tick({ x1: x, x2: x, y1: 0, y2: "100%" }, { x, y: "100%", dy: 16 }, number % stride ? "" : label);
      }));
      svg.querySelector(".ticks-y").replaceChildren(...yTicks.map(([position, label]) => {
        const y = percent(1 - position);
        return tick({ x1: 0, x2: "100%", y1: y, y2: y }, { x: 0, y, dx: -8, dy: 4 }, label);
      }));
    }

    // Labels of the front are placed first. A label that does not fit is shortened to the method,
    // or hidden; the tooltip has it. Of many marks, only the front and the highest of each method have
    // labels.
    function drawLabels(xPositions, yPositions) {
      const spots = points
        .filter((point) => point.getAttribute("visibility") === "visible")
        .map((point) => {
          const row = Number(point.dataset.row);
          return { point, label: data.labels[row], x: xPositions[row] * chart.clientWidth, y: (1 - yPositions[row]) * chart.clientHeight };
        });
      const highest = new Map();
      for (const { label, point, y } of spots) {
        const method = label.split(" (")[0];
        if (!highest.has(method) || y < highest.get(method).y) highest.set(method, { point, y });
      }
      const peaks = new Set([...highest.values()].map(({ point }) => point));
      const taken = spots.map(({ x, y }) => ({ x1: x - 7, x2: x + 7, y }));
      const isOnFront = ({ point }) => point.classList.contains("on-front");
      for (const spot of spots.sort((a, b) => isOnFront(b) - isOnFront(a))) {
        if (spots.length > MAX_LABELLED_MARKS && !isOnFront(spot) && !peaks.has(spot.point)) {
          spot.point.querySelector("text").setAttribute("visibility", "hidden");
          continue;
        }
        placeLabel(spot, spot.label, taken) || placeLabel(spot, spot.label.split(" (")[0], taken);
      }
    }

    // Place a label to the right of its mark, to the left, above or below, where it covers nothing.
    function placeLabel({ point, x, y }, label, taken) {
      const text = point.querySelector("text");
      text.textContent = label;
      text.setAttribute("visibility", "hidden");
      const length = text.getComputedTextLength();
      for (const [anchor, share, dx, dy] of LABEL_PLACES) {
        const x1 = x + dx - share * length;
        const box = { x1, x2: x1 + length, y: y + dy };
        const overlaps = (other) => Math.abs(other.y - box.y) < LABEL_HEIGHT && other.x1 < box.x2 && other.x2 > box.x1;
        if (x1 < 0 || box.x2 > chart.clientWidth + 14 || taken.some(overlaps)) continue;
        setAttributes(text, { x: dx, y: dy + 4, "text-anchor": anchor, visibility: "inherit" });
        taken.push(box);
        return true;
      }
      return false;
    }

    // Highlight a mark and its row in the table, or remove the highlight if they have it.
    function choose(row, scroll) {
      const isChosen = !points[row]?.classList.contains("chosen");
      points.forEach((point, number) => point.classList.toggle("chosen", number === row && isChosen));
      for (const [number, element] of rows) element.classList.toggle("chosen", number === row && isChosen);
      if (scroll && isChosen) rows.get(row)?.scrollIntoView({ block: "nearest" });
    }

    function showTip(point, row) {
      const [x, y] = axes();
      const source = row >= data.num_measured ? "\nreported, not measured here" : "";
      tip.textContent = `${data.labels[row]}\n${y.label}: ${y.texts[row]}\n${x.label}: ${x.texts[row]}${source}`;
      tip.hidden = false;
      const mark = point.querySelector(".mark").getBoundingClientRect();
      const maxLeft = document.documentElement.clientWidth - tip.offsetWidth - 8;
      const left = Math.min(maxLeft, Math.max(8, mark.left + mark.width / 2 - tip.offsetWidth / 2));
      const above = mark.top - tip.offsetHeight - 10;
      tip.style.left = `${left + window.scrollX}px`;
      tip.style.top = `${(above > 4 ? above : mark.bottom + 10) + window.scrollY}px`;
    }

    const hideTip = () => { tip.hidden = true; };
    points.forEach((point, row) => {
      point.addEventListener("pointerenter", () => showTip(point, row));
      point.addEventListener("pointerleave", hideTip);
      point.addEventListener("focus", () => showTip(point, row));
      point.addEventListener("blur", hideTip);
      // On a touch screen, scrolling to the table would hide the mark and its tooltip.
      point.addEventListener("click", (event) => choose(row, event.pointerType !== "touch"));
      point.addEventListener("keydown", (event) => {
        if (event.key === "Enter" || event.key === " ") {
          event.preventDefault();
          choose(row, true);
        } else if (event.key === "Escape") {
          hideTip();
        } else if (event.key in STEPS) {
          event.preventDefault();
          const next = points[order[order.indexOf(row) + STEPS[event.key]]];
          if (!next) return;
          setAttributes(point, { tabindex: -1 });
          setAttributes(next, { tabindex: 0 });
          next.focus();
        }
      });
    });
    for (const [row, element] of rows) {
      element.addEventListener("click", (event) => {
        if (!event.target.closest("a")) choose(row, false);
      });
    }
    control("x").addEventListener("change", () => {
      const [x] = axes();
      control("log").checked = x[extent(x)].default === "logarithmic";
      draw();
    });
    control("y").addEventListener("change", draw);
    control("log").addEventListener("change", draw);
    new ResizeObserver(draw).observe(chart);
    return draw;
  }

  page.whenReady(() => {
    const redraws = queryAll(".plot").map(setUpPlot);
    const reported = document.getElementById("show-reported");
    const toggle = () => {
      document.body.classList.toggle("hide-reported", !reported.checked);
      redraws.forEach((draw) => draw());
    };
    reported?.addEventListener("change", toggle);
    if (reported) toggle();
    document.addEventListener("viewchange", () => { tip.hidden = true; });
  });
})();
