// Views of single runs.
(() => {
  const { queryAll } = page;
  const CARDS_PER_PAGE = 12;

  // Filter and search examples, one page at a time.
  function setUpExamples(sheet) {
    const cards = queryAll(".card", sheet);
    if (!cards.length) return;
    const choices = queryAll("[data-show]", sheet);
    const search = sheet.querySelector("[data-role=search]");
    const steps = queryAll("[data-step]", sheet);
    const texts = cards.map((card) =>
      queryAll(".prompt, .prediction, .reference, .id", card).map((part) => part.textContent).join("\n").toLowerCase(),
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
      const pages = Math.max(1, Math.ceil(found.length / CARDS_PER_PAGE));
      page = Math.min(page, pages - 1);
      const shown = new Set(found.slice(page * CARDS_PER_PAGE, (page + 1) * CARDS_PER_PAGE));
      cards.forEach((card) => { card.hidden = !shown.has(card); });
      const from = page * CARDS_PER_PAGE + 1;
      sheet.querySelector("output").textContent = found.length
        ? `${from}–${from + shown.size - 1} of ${found.length}`
        : "none";
      for (const button of steps) {
        const to = page + Number(button.dataset.step);
        button.disabled = to < 0 || to >= pages;
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
    for (const button of steps) {
      button.addEventListener("click", () => { page += Number(button.dataset.step); draw(); });
    }
    search.addEventListener("input", () => { page = 0; draw(); });
    draw();
  }

  page.addView("run", (parts) => {
    // The names of runs are paths, of which the slashes may be encoded.
    const name = parts.join("/");
    const run = queryAll("article.run").find((each) => each.dataset.run === name);
    return run ? [run] : null;
  });
  page.whenReady(() => queryAll(".sheet").forEach(setUpExamples));
})();
