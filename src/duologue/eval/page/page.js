"use strict";

(() => {
  const PORTION = 200; // rows drawn at a time
  const find = (id) => document.getElementById(id);
  const { columns, rows } = JSON.parse(find("rows").textContent);
  const at = Object.fromEntries(columns.map((name, index) => [name, index]));
  const anchorAt = columns.length;
  const searched = ["id", "text", "heard", "failure"].map((name) => at[name]);
  const digits = { "WER, %": 1, SIM: 2, DNSMOS: 2, "length, s": 2 };
  const table = find("listing");
  const body = table.tBodies[0];
  const more = find("more");
  const order = { column: null, falling: false };
  const texts = rows.map((row) => searched.map((index) => row[index] ?? "").join("\n").toLowerCase());
  let found = [];
  let numDrawn = 0;

  // ---- The table of all utterances. Texts go in as text nodes, never as markup.

  function make(name, text, className) {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  }

  function isNumber(index) {
    return rows.some((row) => typeof row[index] === "number");
  }

  function drawHead() {
    columns.forEach((name, index) => {
      const head = make("th", undefined, isNumber(index) ? "number" : "");
      const button = make("button", name);
      button.type = "button";
      button.addEventListener("click", () => sortBy(index));
      head.scope = "col";
      head.append(button);
      table.tHead.rows[0].append(head);
    });
  }

  function sortBy(index) {
    order.falling = order.column === index && !order.falling;
    order.column = index;
    [...table.tHead.rows[0].cells].forEach((cell, other) => {
      if (other === index) cell.setAttribute("aria-sort", order.falling ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    });
    update();
  }

  // Numbers by size, texts by the alphabet with numbers in them by size; what is not known comes last either way.
  function compare(one, other) {
    const [first, second] = [rows[one][order.column], rows[other][order.column]];
    const unknown = (value) => value === null || value === "";
    if (unknown(first) || unknown(second)) return unknown(first) - unknown(second) || one - other;
    const sign = order.falling ? -1 : 1;
    const way = typeof first === "number" ? first - second : collator.compare(first, second);
    return sign * way || one - other;
  }
  const collator = new Intl.Collator("en", { numeric: true });

  function update() {
    const words = find("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const [system, suite] = [find("by-system").value, find("by-suite").value];
    found = rows
      .map((_, number) => number)
      .filter((number) => (!system || rows[number][at.system] === system) &&
        (!suite || rows[number][at.suite] === suite) &&
        words.every((word) => texts[number].includes(word)));
    if (order.column !== null) found.sort(compare);
    body.replaceChildren();
    numDrawn = 0;
    draw();
  }

  function draw() {
    const portion = found.slice(numDrawn, numDrawn + PORTION);
    body.append(...portion.map((number) => drawRow(rows[number])));
    numDrawn += portion.length;
    find("num-found").textContent = found.length === rows.length ? `${rows.length} utterances`
      : `${found.length} of ${rows.length} utterances`;
    more.hidden = numDrawn >= found.length;
    more.textContent = `Show more (${numDrawn} of ${found.length} are shown)`;
  }

  function drawRow(row) {
    const line = document.createElement("tr");
    columns.forEach((name, index) => {
      const value = row[index];
      const cell = make("td", undefined, typeof value === "number" ? "number" : name === "id" ? "id" : "");
      if (name === "id" && row[anchorAt] !== null) {
        const link = make("a", value);
        link.href = `#${row[anchorAt]}`;
        cell.append(link);
      } else cell.textContent = typeof value === "number" ? value.toFixed(digits[name]) : value ?? "";
      line.append(cell);
    });
    return line;
  }

  function offer(select, index) {
    new Set(rows.map((row) => row[index])).forEach((name) => select.append(new Option(name, name)));
  }

  offer(find("by-system"), at.system);
  offer(find("by-suite"), at.suite);
  drawHead();
  update();
  find("filter").hidden = false;
  find("filter").addEventListener("submit", (event) => event.preventDefault());
  find("filter").addEventListener("input", update);
  more.addEventListener("click", draw);

  // ---- Clips: one plays at a time, a line follows it over the spectrogram, a click there plays from that time.

  const players = [...document.querySelectorAll("article.clip audio")];
  for (const player of players) {
    const track = player.closest("article").querySelector(".track");
    const cursor = track.querySelector(".cursor");
    const scale = Number(track.dataset.scale);
    const follow = () => {
      const x = player.currentTime * scale;
      cursor.style.transform = `translateX(${x}px)`;
      if (x < track.scrollLeft || x > track.scrollLeft + track.clientWidth) track.scrollLeft = x - 20;
      if (!player.paused) requestAnimationFrame(follow);
    };
    player.addEventListener("play", () => {
      players.forEach((other) => other === player || other.pause());
      cursor.hidden = false;
      follow();
    });
    player.addEventListener("seeked", follow);
    player.addEventListener("ended", () => { cursor.hidden = true; });
    track.querySelector("img").addEventListener("click", (event) => {
      player.currentTime = event.offsetX / scale;
      player.play();
    });
  }

  // ---- A link to something that is folded away opens it.

  function unfold() {
    const target = location.hash.length > 1 && find(location.hash.slice(1));
    const folded = target && target.closest("details:not([open])");
    if (folded) {
      folded.open = true;
      target.scrollIntoView();
    }
  }
  addEventListener("hashchange", unfold);
  unfold();
})();
