// Views of single runs.
(() => {
  const { create, queryAll } = page;
  const { createAnswer, createPictures, createReferences, isRight, showList } = page.examples;

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
      description: describe(run, task, examples.ids.length, examples.is_graded && hasParts),
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

  function describe(run, task, length, hasPartlyRight) {
    const text = `${length.toLocaleString("en")} examples of ${task} ${run.tasks[task].split}.`;
    return hasPartlyRight
      ? `${text} Right: at least 50 % of the score. Partly: more than 0 % and less than 100 %.`
      : text;
  }

  // List the cards of a sheet, whose examples are not data. The page does not have their scores.
  function listSheet(sheet) {
    const cards = queryAll(".card", sheet);
    const textOf = (card, selector) => card.querySelector(selector)?.textContent ?? "";
    const is = (kind) => (index) => cards[index].classList.contains(kind);
    const isGraded = cards.some((_, index) => is("right")(index) || is("wrong")(index));
    const all = ["all", "all", () => true];
    const [title, count] = sheet.querySelector("h4").childNodes;
    return {
      length: cards.length,
      id: (index) => textOf(cards[index], ".id"),
      prompt: (index) => textOf(cards[index], ".prompt"),
      prediction: (index) => textOf(cards[index], ".prediction"),
      score: () => null,
      hasScores: false,
      hasParts: false,
      kinds: isGraded ? [all, ["right", "right", is("right")], ["wrong", "wrong", is("wrong")]] : [all],
      description: `${title.textContent.trim()}: ${count.textContent}.`,
      texts: (index) => queryAll(".prompt, .prediction, .reference, .id", cards[index]).map((part) => part.textContent),
      card: (index) => {
        const card = cards[index].cloneNode(true);
        card.querySelector(".id").remove();
        return card;
      },
    };
  }

  // Show the examples of all tasks in one list: those that are data, and of the others the sheet.
  function showExamples(element, run, query) {
    const sheets = queryAll(".sheet", element).filter((sheet) => sheet.querySelector(".card"));
    const sheetOf = new Map(sheets.map((sheet) => [sheet.dataset.task, sheet]));
    const withData = Object.keys(run.tasks).filter((task) => run.tasks[task].blocks);
    const tasks = [...new Set([...withData, ...sheetOf.keys()])];
    if (!tasks.length) return;
    showList(element.querySelector("[data-role=list]"), query, {
      tasks,
      load: async (task) => (withData.includes(task) ? loadList(run, task) : listSheet(sheetOf.get(task))),
      describe: (task, list) => list.description,
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
})();
