// Lists of examples that can be filtered, searched, sorted and paged, with the filters in the address.
(() => {
  const { create } = page;
  const CARDS_PER_PAGE = 24;
  const SEARCH_DELAY_MS = 150;
  // As MIN_PERCENT_IF_RIGHT in eval/metrics.py.
  const MIN_RIGHT = 50;

  const isRight = (score) => score !== null && score >= MIN_RIGHT;
  const collator = new Intl.Collator("en", { numeric: true });
  const SORTS = [
    ["", "order of the split", null],
    ["low", "lowest score first", (list, a, b) => list.score(a) - list.score(b)],
    ["high", "highest score first", (list, a, b) => list.score(b) - list.score(a)],
    ["prompt", "prompt", (list, a, b) => collator.compare(list.prompt(a), list.prompt(b))],
    ["prediction", "prediction", (list, a, b) => collator.compare(list.prediction(a), list.prediction(b))],
  ];

  // Thumbnails of an example, or the IDs of images that have none.
  function createPictures({ examples, pictures }, index) {
    const ids = examples.images[index].map((number) => examples.image_ids[number]);
    if (!ids.length) return null;
    const shown = ids.filter((id) => Object.hasOwn(pictures, id));
    if (!shown.length) return create("p", { class: "no-picture quiet" }, `image: ${ids.join(", ")}`);
    return create("div", { class: "pictures" }, ...shown.map((id) => create("img", { src: pictures[id], alt: id, decoding: "async" })));
  }

  // The score of an answer, if it is neither right nor wrong altogether.
  const scoreText = (score) => (score === null || score === 0 || score === 100 ? "" : ` (${score})`);

  // One answer as a paragraph, marked as right or wrong; `name` is that of the run in a comparison.
  function createAnswer(name, prediction, score, isGraded) {
    const verdict = !isGraded || score === null ? "" : isRight(score) ? "right" : "wrong";
    return create(
      "p", { class: `answer ${verdict}` },
      ...(name ? [create("b", {}, name), " "] : []),
      create("span", { class: "aside" }, `${verdict || "prediction"}: `),
      create("span", { class: "prediction" }, prediction || "(empty)"),
      scoreText(score),
    );
  }

  function createReferences({ examples }, index) {
    const answers = examples.answers[examples.references[index]];
    if (!answers.length) return null;
    return create("p", { class: "references" }, examples.is_graded ? "answers: " : "references: ", create("span", { class: "reference" }, answers.join(" · ")));
  }

  function readState(query, tasks) {
    const [from, to] = (query.get("score") || "").split("-").map((text) => (text === "" ? NaN : Number(text)));
    return {
      task: tasks.includes(query.get("task")) ? query.get("task") : tasks[0],
      show: query.get("show") || "",
      text: query.get("text") || "",
      from: Number.isFinite(from) ? from : null,
      to: Number.isFinite(to) ? to : null,
      sort: SORTS.some(([value]) => value === query.get("sort")) ? query.get("sort") : "",
      page: Math.max(0, (Number.parseInt(query.get("page"), 10) || 1) - 1),
      example: query.get("example"),
    };
  }

  function writeState(state, tasks) {
    const query = new URLSearchParams();
    const hasRange = state.from !== null || state.to !== null;
    const values = {
      task: tasks.length > 1 ? state.task : "",
      show: state.show,
      text: state.text,
      score: hasRange ? `${state.from ?? ""}-${state.to ?? ""}` : "",
      sort: state.sort,
      page: state.page ? state.page + 1 : "",
      example: state.example,
    };
    for (const [name, value] of Object.entries(values)) if (value) query.set(name, value);
    page.setQuery(query);
  }

  // Buttons of which one is pressed. `choices` are [value, label].
  function createChoice(label, choices, chosen, onChoose) {
    return create("span", { class: "choice", role: "group", "aria-label": label }, ...choices.map(([value, text]) => {
      const button = create("button", { type: "button", "aria-pressed": String(value === chosen) }, text);
      button.addEventListener("click", () => onChoose(value));
      return button;
    }));
  }

  function createInput(label, attributes, value, onInput) {
    const input = create("input", attributes);
    input.value = value ?? "";
    let timer = 0;
    input.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(() => onInput(input.value), SEARCH_DELAY_MS);
    });
    return create("label", {}, `${label} `, input);
  }

  // Show a list in a container, and return whether its data could be read.
  //
  // `tasks` are the names of the tasks that can be chosen, and `load(task)` returns what one shows:
  // its `length`; the functions `id`, `prompt`, `prediction`, `score`, `texts` and `card` of an index;
  // `kinds`, as [value, label, function of an index] of which the first is the default; and
  // `hasParts`, whether scores are more than right and wrong.
  async function showList(container, query, { tasks, load, describe }) {
    const state = readState(query, tasks);
    const turn = Symbol("turn");
    container.turn = turn;
    let list;
    try {
      list = await load(state.task);
    } catch (error) {
      container.replaceChildren(create("p", { role: "alert" }, `The data of all examples cannot be read: ${error.message}`));
      return false;
    }
    // The user may have opened another view in the meantime.
    if (container.turn !== turn) return true;
    const indices = Array.from({ length: list.length }, (_, index) => index);
    const [{ 0: firstKind }] = list.kinds;
    if (!list.kinds.some(([value]) => value === state.show)) state.show = firstKind;
    const output = create("output");
    const pager = [-1, 1].map((step) => {
      const button = create("button", { type: "button", "aria-label": step < 0 ? "Previous examples" : "Next examples" }, step < 0 ? "←" : "→");
      button.addEventListener("click", () => change({ page: state.page + step }));
      return button;
    });
    const cards = create("ul", { class: "cards" });
    const kinds = create("span");
    let lowered = null;

    function change(values) {
      const isOtherTask = "task" in values && values.task !== state.task;
      Object.assign(state, { page: 0, example: null }, isOtherTask ? { show: "" } : {}, values);
      writeState(state.show === firstKind ? { ...state, show: "" } : state, tasks);
      if (!isOtherTask) {
        draw();
        return;
      }
      const source = { tasks, load, describe };
      showList(container, new URLSearchParams(location.hash.split("?")[1] || ""), source).then(() => {
        container.querySelector(".choice [aria-pressed=true]")?.focus();
      });
    }

    function find() {
      const words = state.text.trim().toLowerCase();
      if (words && lowered === null) lowered = indices.map((index) => list.texts(index).join("\n").toLowerCase());
      const inRange = (score) => score !== null && score >= (state.from ?? -Infinity) && score <= (state.to ?? Infinity);
      const hasRange = state.from !== null || state.to !== null;
      const matching = indices.filter((index) => (!words || lowered[index].includes(words)) && (!hasRange || inRange(list.score(index))));
      const counts = list.kinds.map(([, , test]) => matching.filter(test));
      const number = list.kinds.findIndex(([value]) => value === state.show);
      const sort = SORTS.find(([value]) => value === state.sort)[2];
      const found = sort ? [...counts[number]].sort((a, b) => sort(list, a, b) || a - b) : counts[number];
      return [found, counts.map((each) => each.length)];
    }

    function draw() {
      const [found, counts] = find();
      kinds.replaceChildren(createChoice("Show", list.kinds.map(([value, label], number) => [value, `${label} ${counts[number].toLocaleString("en")}`]), state.show, (show) => {
        change({ show });
        kinds.querySelector("[aria-pressed=true]")?.focus();
      }));
      const pages = Math.max(1, Math.ceil(found.length / CARDS_PER_PAGE));
      const wanted = state.example === null ? -1 : found.findIndex((index) => list.id(index) === state.example);
      if (wanted >= 0) state.page = Math.floor(wanted / CARDS_PER_PAGE);
      state.page = Math.min(state.page, pages - 1);
      const from = state.page * CARDS_PER_PAGE;
      const shown = found.slice(from, from + CARDS_PER_PAGE);
      output.textContent = shown.length ? `${(from + 1).toLocaleString("en")}–${(from + shown.length).toLocaleString("en")} of ${found.length.toLocaleString("en")}` : "none";
      pager[0].disabled = state.page === 0;
      pager[1].disabled = state.page + 1 >= pages;
      cards.replaceChildren(...shown.map((index) => {
        const card = list.card(index);
        const link = new URLSearchParams({ task: state.task, example: list.id(index) });
        card.append(create("p", { class: "id" }, create("a", { href: `${location.hash.split("?")[0]}?${link}`, title: "Link to this example" }, list.id(index))));
        if (list.id(index) === state.example) card.classList.add("chosen");
        return card;
      }));
      cards.classList.toggle("texts", !cards.querySelector(".pictures"));
      cards.querySelector(".chosen")?.scrollIntoView({ block: "center" });
    }

    const number = (value) => (value.trim() === "" || !Number.isFinite(Number(value)) ? null : Number(value));
    const range = { type: "number", min: 0, step: "any", inputmode: "decimal" };
    const sorting = create("select", {}, ...SORTS.filter(([value]) => list.hasScores || !["low", "high"].includes(value)).map(([value, label]) => create("option", { value }, label)));
    sorting.value = state.sort;
    sorting.addEventListener("change", () => change({ sort: sorting.value }));
    container.replaceChildren(
      create(
        "div", { class: "controls" },
        tasks.length > 1 ? createChoice("Task", tasks.map((task) => [task, task]), state.task, (task) => change({ task })) : null,
        kinds,
        createInput("Search", { type: "search" }, state.text, (text) => change({ text })),
        list.hasParts ? create("span", { class: "range" }, createInput("Score from", range, state.from, (value) => change({ from: number(value) })), " ", createInput("to", range, state.to, (value) => change({ to: number(value) }))) : null,
        create("label", {}, "Sort by ", sorting),
        create("span", { class: "pager" }, pager[0], " ", output, " ", pager[1]),
      ),
      create("p", { class: "quiet" }, describe(state.task, list)),
      cards,
    );
    draw();
    return true;
  }

  page.examples = { showList, createAnswer, createPictures, createReferences, isRight };
})();
