// Comparisons of two runs: settings, scores with the paired test, and examples.
(() => {
  const { create, runs } = page;
  const { createAnswer, createPictures, createReferences, isRight, showList } = page.examples;
  const view = document.querySelector(".view.compare");
  const part = (role) => view.querySelector(`[data-role=${role}]`);
  const cell = (...content) => create("td", {}, ...content);
  const rowHeader = (text) => create("th", { scope: "row" }, text);
  const MISSING = "–";
  const MAX_SETTINGS_SHOWN = 12;
  let chosen = [];

  // A select of all runs, for the comparison with `other`.
  function fillSelect(select, name, without) {
    select.replaceChildren(...[...runs.values()].filter((run) => run.name !== without).map((run) => create("option", { value: run.name }, `${run.name} · ${run.label}, seed ${run.seed}`)));
    select.value = name;
  }

  function settingText(json) {
    if (json === null) return MISSING;
    const value = JSON.parse(json);
    return typeof value === "string" ? value : json;
  }

  async function showSettings(first, second) {
    const { names, runs: values } = await page.load("settings");
    const rows = names
      .map((name, number) => [name, values[first.number][number], values[second.number][number]])
      .filter(([, one, other]) => one !== other)
      .map(([name, one, other]) => create("tr", {}, rowHeader(name), cell(settingText(one)), cell(settingText(other))));
    part("settings").replaceChildren(...rows);
    part("settings-table").hidden = !rows.length;
    const details = part("settings-details");
    details.open = rows.length <= MAX_SETTINGS_SHOWN;
    details.querySelector("summary").textContent = rows.length
      ? `${rows.length} difference${rows.length === 1 ? "" : "s"} in settings and circumstances`
      : "The runs have the same settings.";
  }

  const scoreText = ({ score, interval }) => `${score.toFixed(2)}${interval ? ` [${interval[0].toFixed(2)}, ${interval[1].toFixed(2)}]` : ""}`;
  const signed = (value) => `${value > 0 ? "+" : ""}${value.toFixed(2)}`;
  const probability = (value) => (value < 0.001 ? "< 0.001" : value.toFixed(3));

  function verdictText({ verdict, needed }, sign) {
    if (verdict !== "not told apart") return `A is ${(verdict === "better") === (sign > 0) ? "better" : "worse"}`;
    return `not told apart${needed === null ? "" : `; a true difference of this size would need ${needed.toLocaleString("en")} examples`}`;
  }

  const noTest = (one, other) => {
    if (one.split !== other.split) return "no test: other splits";
    if (!one.interval || !other.interval) return "no test: the scores of the examples were not kept; vl-lst evaluate adds them";
    return "no test on this page: other examples, or too many runs; vl-lst compare says which";
  };

  async function showScores(first, second) {
    const tests = await page.load("tests");
    const isSwapped = first.number > second.number;
    const pair = isSwapped ? [second, first] : [first, second];
    const found = tests[pair.map((run) => run.number).join(",")] || {};
    const sign = isSwapped ? -1 : 1;
    const tasks = Object.keys(first.tasks).filter((task) => Object.hasOwn(second.tasks, task));
    part("scores").replaceChildren(...tasks.map((task) => {
      const [one, other] = [first.tasks[task], second.tasks[task]];
      const test = found[task];
      const bounds = test && (isSwapped ? [-test.high, -test.low] : [test.low, test.high]);
      return create(
        "tr", {}, rowHeader(`${task} ${one.split}`), cell(scoreText(one)), cell(scoreText(other)),
        ...(test
          ? [cell(`${signed(sign * test.difference)} [${bounds.map(signed).join(", ")}]`), cell(probability(test.probability)), cell(verdictText(test, sign))]
          : [cell(one.split === other.split ? signed(one.score - other.score) : MISSING), cell(MISSING), cell(noTest(one, other))]),
      );
    }));
  }

  async function loadPair(first, second, task) {
    const [one, other] = await Promise.all([page.loadAnswers(first, task), page.loadAnswers(second, task)]);
    const { examples } = one;
    const score = (loaded, index) => loaded.answers.scores[index];
    const right = (loaded, index) => isRight(score(loaded, index));
    const difference = (index) => (score(one, index) ?? 0) - (score(other, index) ?? 0);
    const graded = [
      ["differ", "differ", (index) => right(one, index) !== right(other, index)],
      ["a", "only A right", (index) => right(one, index) && !right(other, index)],
      ["b", "only B right", (index) => right(other, index) && !right(one, index)],
      ["neither", "both wrong", (index) => !right(one, index) && !right(other, index)],
      ["all", "all", () => true],
    ];
    const captions = [
      ["differ", "differ", (index) => one.answers.predictions[index] !== other.answers.predictions[index]],
      ["a", "A scores higher", (index) => difference(index) > 0],
      ["b", "B scores higher", (index) => difference(index) < 0],
      ["all", "all", () => true],
    ];
    return {
      length: examples.ids.length,
      id: (index) => examples.ids[index],
      prompt: (index) => examples.prompts[index],
      prediction: (index) => one.answers.predictions[index],
      score: difference,
      hasScores: true,
      hasParts: false,
      kinds: examples.is_graded ? graded : captions,
      texts: (index) => [examples.ids[index], examples.prompts[index], one.answers.predictions[index], other.answers.predictions[index], ...examples.answers[examples.references[index]]],
      card: (index) => create(
        "li", { class: "card" },
        createPictures(one, index),
        examples.prompts[index] ? create("p", { class: "prompt" }, examples.prompts[index]) : null,
        createAnswer("A", one.answers.predictions[index], score(one, index), examples.is_graded),
        createAnswer("B", other.answers.predictions[index], score(other, index), examples.is_graded),
        createReferences(one, index),
      ),
    };
  }

  function showExamples(first, second, query) {
    const same = (task) => first.tasks[task].blocks && second.tasks[task]?.blocks && first.tasks[task].blocks[0] === second.tasks[task].blocks[0];
    const tasks = Object.keys(first.tasks).filter(same);
    const container = part("list");
    if (!tasks.length) {
      container.replaceChildren(create("p", { class: "quiet" }, "This page has no examples that both runs answered.", ...page.notes.map((note) => ` ${note}`)));
      return;
    }
    showList(container, query, {
      tasks,
      load: (task) => loadPair(first, second, task),
      describe: (task, list) => `${list.length.toLocaleString("en")} examples of ${task} ${first.tasks[task].split}. Scores are sorted by A minus B.`,
    });
  }

  function open(parts, query) {
    const found = parts.map((name) => runs.get(name));
    if (found.length !== 2 || found.includes(undefined) || found[0] === found[1]) return null;
    const [first, second] = chosen = found;
    part("title").textContent = `${first.name} vs ${second.name}`;
    for (const [role, run] of [["a", first], ["b", second]]) {
      fillSelect(part(`run-${role}`), run.name, role === "a" ? second.name : first.name);
      const link = part(`link-${role}`);
      link.textContent = `Open ${run.name}`;
      link.setAttribute("href", page.addressOf(run.name));
    }
    const report = (error) => { part("problem").textContent = `Data of this page cannot be read: ${error.message}`; };
    part("problem").textContent = "";
    showSettings(first, second).catch(report);
    showScores(first, second).catch(report);
    showExamples(first, second, query);
    return [view];
  }

  const choose = (first, second) => { location.hash = page.comparisonOf(first, second); };
  page.addView("compare", open);
  page.whenReady(() => {
    part("run-a").addEventListener("change", (event) => choose(event.target.value, chosen[1].name));
    part("run-b").addEventListener("change", (event) => choose(chosen[0].name, event.target.value));
    part("swap").addEventListener("click", () => choose(chosen[1].name, chosen[0].name));
  });
  page.fillRunSelect = fillSelect;
})();
