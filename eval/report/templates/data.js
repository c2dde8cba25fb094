// Data of runs and examples, decoded when a view needs them (see run_data.py).
(() => {
  const index = page.readData("run-index");
  const runs = new Map(index.runs.map((run, number) => [run.name, { ...run, number }]));
  // Promise of the content of each block, and what waits for the script of one, by key.
  const blocks = new Map();
  const waiting = new Map();

  async function unpack(text) {
    const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  }

  // Return the text of a block: part of the page, or a script of its own in a published site.
  // A page that was opened from disk may load scripts, but not other files.
  function read(key) {
    const element = document.getElementById(`block-${key}`);
    if (element) return Promise.resolve(element.textContent);
    return new Promise((resolve, reject) => {
      const script = document.createElement("script");
      waiting.set(key, resolve);
      script.src = index.files[key];
      script.addEventListener("error", () => reject(new Error(`${index.files[key]} cannot be loaded`)));
      document.head.append(script);
    });
  }

  function load(key) {
    if (!blocks.has(key)) {
      const content = read(key).then(unpack);
      content.catch(() => blocks.delete(key));
      blocks.set(key, content);
    }
    return blocks.get(key);
  }

  // Thumbnails that are elements of the page, by image ID.
  const stored = {};
  for (const [id, anchor] of Object.entries(index.stored)) {
    stored[id] = document.getElementById(anchor).getAttribute("href");
  }

  page.receive = (key, text) => waiting.get(key)?.(text);
  page.runs = runs;
  page.notes = index.notes;
  page.load = load;
  // Return the examples of a task, what a run answered, and the thumbnails.
  page.loadAnswers = async (run, task) => {
    const [examples, answers] = run.tasks[task].blocks;
    const loaded = await Promise.all([load(examples), load(answers), load("pictures")]);
    return { key: examples, examples: loaded[0], answers: loaded[1], pictures: { ...stored, ...loaded[2] } };
  };
  page.addressOf = (name) => `#/run/${encodeURIComponent(name)}`;
  page.comparisonOf = (first, second) => `#/compare/${encodeURIComponent(first)}/${encodeURIComponent(second)}`;

  // Create an element; text from data only ever becomes text.
  page.create = (name, attributes = {}, ...children) => {
    const element = document.createElement(name);
    page.setAttributes(element, attributes);
    element.append(...children.filter((child) => child !== null));
    return element;
  };
})();
