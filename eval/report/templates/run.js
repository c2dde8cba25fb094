// Views of single runs.
(() => {
  const { create, queryAll } = page;
  const { createAnswer, createPictures, createReferences, isRight, showList } = page.examples;
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

  // Offer comparisons with all other runs.
  function addComparison(container, name) {
    if (container.childElementCount || page.runs.size < 2) return;
    const select = create("select");
    page.fillRunSelect(select, "", name);
    const button = create("button", { type: "button", class: "plain-button" }, "Compare");
    select.selectedIndex = 0;
    button.addEventListener("click", () => { location.hash = page.comparisonOf(name, select.value); });
    container.append(create("label", {}, "Compare with ", select), button);
  }

  async function loadList(run, task) {
    const loaded = await page.loadAnswers(run, task);
    const { examples, answers } = loaded;
    const score = (index) => answers.scores[index];
    const hasParts = answers.scores.some((each) => each !== null && each !== 0 && each !== 100);
    const graded = [
      ["all", "all", () => true],
      ["right", "right", (index) => isRight(score(index))],
      ["wrong", "wrong", (index) => score(index) !== null && !isRight(score(index))],
    ];
    if (hasParts) graded.push(["partly", "partly", (index) => score(index) > 0 && score(index) < 100]);
    return {
      length: examples.ids.length,
      id: (index) => examples.ids[index],
      prompt: (index) => examples.prompts[index],
      prediction: (index) => answers.predictions[index],
      score,
      hasScores: answers.scores.some((each) => each !== null),
      hasParts,
      kinds: examples.is_graded ? graded : graded.slice(0, 1),
      texts: (index) => [examples.ids[index], examples.prompts[index], answers.predictions[index], ...examples.answers[examples.references[index]]],
      card: (index) => create(
        "li", { class: "card" },
        createPictures(loaded, index),
        examples.prompts[index] ? create("p", { class: "prompt" }, examples.prompts[index]) : null,
        createAnswer("", answers.predictions[index], score(index), examples.is_graded),
        createReferences(loaded, index),
      ),
    };
  }

  function describe(run, task, list) {
    const text = `${list.length.toLocaleString("en")} examples of ${task} ${run.tasks[task].split}.`;
    return list.hasParts && list.kinds.length > 1
      ? `${text} Right: at least 50 % of the score. Partly: more than 0 % and less than 100 %.`
      : text;
  }

  // Show all examples that are data; tasks without keep their static sheets.
  function showExamples(element, run, query) {
    const tasks = Object.keys(run.tasks).filter((task) => run.tasks[task].blocks);
    const container = element.querySelector("[data-role=list]");
    if (!tasks.length) return;
    showList(container, query, {
      tasks,
      load: (task) => loadList(run, task),
      describe: (task, list) => describe(run, task, list),
    }).then((isShown) => {
      for (const sheet of queryAll(".sheet", element)) sheet.hidden = isShown && tasks.includes(sheet.dataset.task);
    });
  }

  page.addView("run", (parts, query) => {
    // The names of runs are paths, of which the slashes may be encoded.
    const name = parts.join("/");
    const element = queryAll("article.run").find((each) => each.dataset.run === name);
    if (!element) return null;
    addComparison(element.querySelector("[data-role=comparison]"), name);
    showExamples(element, page.runs.get(name), query);
    return [element];
  });
  page.whenReady(() => queryAll(".sheet").forEach(setUpExamples));
})();
