document.querySelectorAll("th button").forEach((button, column) => {
  const value = row => row.cells[column].textContent;
  const number = text => parseFloat(text.replace("+", "")) * ({ kB: 1e3, MB: 1e6, GB: 1e9 }[text.split(" ")[1]] ?? 1);
  const compare = (a, b) => {
    const [x, y] = [number(a), number(b)];
    return isNaN(x) && isNaN(y) ? a.localeCompare(b) : isNaN(x) ? 1 : isNaN(y) ? -1 : x - y;
  };
  button.onclick = () => {
    const head = button.parentElement, up = head.ariaSort !== "ascending";
    document.querySelectorAll("th").forEach(other => other.ariaSort = "none");
    head.ariaSort = up ? "ascending" : "descending";
    const body = document.querySelector("tbody");
    const rows = [...body.rows].sort((a, b) => compare(value(a), value(b)));
    body.append(...(up ? rows : rows.reverse()));
  };
});
