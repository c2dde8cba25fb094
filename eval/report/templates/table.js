// Tables that are sorted by a click on a header.
(() => {
  const { queryAll } = page;

  // Sort a table by the column whose header is clicked; cells without a value stay last.
  function setUpSorting(table) {
    const headers = queryAll("thead th", table);
    headers.forEach((header, column) => {
      header.querySelector("button").addEventListener("click", () => {
        const current = header.getAttribute("aria-sort");
        const isText = header.dataset.kind === "text";
        const first = header.dataset.first || (isText ? "ascending" : "descending");
        const other = first === "ascending" ? "descending" : "ascending";
        const direction = current === first ? other : first;
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

  page.addView("table", ([number]) => {
    const table = document.getElementById(`/table/${number}`);
    return table && [table];
  });
  page.whenReady(() => queryAll(".table table.board").forEach(setUpSorting));
})();
