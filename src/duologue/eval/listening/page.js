"use strict";

(() => {
  const RATINGS_FORMAT = "duologue-listening-ratings";
  const VERSION = 1;
  const SCALE = [
    [-3, "A is much better"],
    [-2, "A is better"],
    [-1, "A is slightly better"],
    [0, "About the same"],
    [1, "B is slightly better"],
    [2, "B is better"],
    [3, "B is much better"],
  ];
  const SECONDS_PER_TRIAL = 20;
  const find = (id) => document.getElementById(id);
  const content = JSON.parse(find("content").textContent);
  const storageName = `duologue-listening-${content.test}`;

  // ---- Chance: the rater's id and the test decide everything, so that it can be drawn again.

  // FNV-1a over UTF-16 code units, mixed as in MurmurHash3.
  function seedOf(text) {
    let hash = 0x811c9dc5;
    for (let index = 0; index < text.length; index += 1) {
      hash = Math.imul(hash ^ text.charCodeAt(index), 0x01000193);
    }
    hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
    hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
    return (hash ^ (hash >>> 16)) >>> 0;
  }

  // Mulberry32: numbers in [0, 1).
  function generator(seed) {
    let state = seed;
    return () => {
      state = (state + 0x6d2b79f5) | 0;
      let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
      mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
      return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
    };
  }

  function shuffled(items, draw) {
    const result = [...items];
    for (let last = result.length - 1; last > 0; last -= 1) {
      const other = Math.floor(draw() * (last + 1));
      [result[last], result[other]] = [result[other], result[last]];
    }
    return result;
  }

  // Clips by themselves come first: who has heard the conversation cannot forget it.
  function planOf(seed) {
    const draw = generator(seed);
    const plain = content.trials.filter((trial) => !trial.context);
    const inContext = content.trials.filter((trial) => trial.context);
    return [...shuffled(plain, draw), ...shuffled(inContext, draw)].map((trial) => {
      const [left, right] = draw() < 0.5 ? trial.clips : [trial.clips[1], trial.clips[0]];
      return { ...trial, left, right };
    });
  }

  function inventedRater() {
    return [...crypto.getRandomValues(new Uint8Array(4))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  }

  // ---- What is kept across a reload.

  function load() {
    try {
      const kept = JSON.parse(localStorage.getItem(storageName));
      return kept && kept.test === content.test && kept.answers ? kept : null;
    } catch {
      return null;
    }
  }

  function save() {
    try {
      localStorage.setItem(storageName, JSON.stringify(run));
      return true;
    } catch {
      return false;
    }
  }

  function forget() {
    try {
      localStorage.removeItem(storageName);
    } catch {
      // Then nothing was kept either.
    }
  }

  // ---- Sound: one element plays everything, so that no two sounds overlap and phones allow a series.

  const audio = new Audio();
  const addresses = new Map();
  let playing = null;

  // Safari plays a Blob more reliably than a data: address.
  function addressOf(sound) {
    if (!addresses.has(sound)) {
      const [head, body] = content.sounds[sound].split(",");
      const bytes = Uint8Array.from(atob(body), (character) => character.charCodeAt(0));
      addresses.set(sound, URL.createObjectURL(new Blob([bytes], { type: head.slice(5).split(";")[0] })));
    }
    return addresses.get(sound);
  }

  // A button that plays a series of sounds; `onHeard(sound)` is called for each that was played to its end.
  function makePlayer(button, name, sounds, onHeard) {
    const player = { button, name, sounds, onHeard, index: 0, heard: false };
    const label = document.createElement("span");
    label.className = "name";
    const state = document.createElement("span");
    state.className = "state";
    button.replaceChildren(label, " ", state);
    player.draw = () => {
      const isPlaying = playing === player;
      label.textContent = `${isPlaying ? "■ Stop" : "▶ Play"} ${name}`;
      state.textContent = isPlaying ? "playing" : player.heard ? "✓ played" : "";
      button.classList.toggle("playing", isPlaying);
      button.classList.toggle("heard", player.heard);
      if (!isPlaying) button.style.setProperty("--played", "0");
    };
    button.onclick = () => (playing === player ? stop() : play(player));
    player.draw();
    return player;
  }

  function play(player) {
    stop();
    playing = player;
    player.index = 0;
    player.draw();
    playNext();
  }

  function playNext() {
    const player = playing;
    audio.src = addressOf(player.sounds[player.index]);
    audio.play().catch((error) => {
      if (playing === player && error.name !== "AbortError") {
        stop();
        complain(`The clip cannot be played here (${error.name}). Please try another browser.`);
      }
    });
  }

  function stop() {
    const player = playing;
    playing = null;
    audio.pause();
    if (player) player.draw();
  }

  audio.addEventListener("ended", () => {
    const player = playing;
    if (!player) return;
    const sound = player.sounds[player.index];
    player.index += 1;
    if (player.index < player.sounds.length) {
      playNext();
    } else {
      player.heard = true;
      stop();
    }
    player.onHeard(sound);
  });

  audio.addEventListener("timeupdate", () => {
    if (!playing || !audio.duration) return;
    const done = (playing.index + audio.currentTime / audio.duration) / playing.sounds.length;
    playing.button.style.setProperty("--played", done.toFixed(3));
  });

  // ---- The page.

  let run = null;
  let plan = [];
  let position = 0;
  let shownAt = 0;
  let heard = new Set();
  let plays = { left: 0, right: 0 };

  function announce(text) {
    find("announcer").textContent = text;
  }

  function complain(text) {
    find("problem").textContent = text;
    find("problem").hidden = false;
  }

  function showSection(id, heading) {
    stop();
    for (const name of ["welcome", "trial", "finish"]) find(name).hidden = name !== id;
    find("problem").hidden = true;
    window.scrollTo(0, 0);
    find(heading).focus({ preventScroll: true });
  }

  const numAnswered = () => plan.filter((trial) => run.answers[trial.id]).length;

  function firstUnanswered() {
    const index = plan.findIndex((trial) => !run.answers[trial.id]);
    return index < 0 ? plan.length : index;
  }

  function showWelcome() {
    find("num-trials").textContent = content.trials.length;
    find("num-minutes").textContent = Math.max(1, Math.round((content.trials.length * SECONDS_PER_TRIAL) / 60));
    for (const element of document.querySelectorAll("[data-part]")) {
      const wanted = element.dataset.part === "context";
      element.hidden = !content.trials.some((trial) => trial.context === wanted);
    }
    showSection("welcome", "welcome-heading");
  }

  function start(rater) {
    const seed = seedOf(`${content.test}/${rater}`);
    run = { test: content.test, rater, seed, started: new Date().toISOString(), answers: {} };
    plan = planOf(seed);
    showTrial(0);
    if (!save()) complain("This browser keeps nothing: please do not reload or close the page before the end.");
  }

  function showTrial(index) {
    position = index;
    if (index >= plan.length) {
      showFinish();
      return;
    }
    const trial = plan[index];
    const answer = run.answers[trial.id];
    heard = new Set();
    plays = { left: 0, right: 0 };
    shownAt = Date.now();
    find("position").textContent = `Question ${index + 1} of ${plan.length}`;
    find("bar").max = plan.length;
    find("bar").value = numAnswered();
    find("question").textContent = trial.context
      ? "Which sounds more natural as the next turn of this conversation?"
      : "Which sounds more like natural human speech?";
    find("sentence").hidden = !trial.text;
    find("sentence").textContent = `${trial.context ? "Next turn: " : ""}“${trial.text}”`;
    showHistory(trial);
    makePlayer(find("play-left"), "A", [trial.left], onClip("left"));
    makePlayer(find("play-right"), "B", [trial.right], onClip("right"));
    for (const input of find("choices").querySelectorAll("input")) {
      input.checked = Boolean(answer) && Number(input.value) === answer.rating;
    }
    find("back").disabled = index === 0;
    find("next").textContent = index + 1 === plan.length ? "Finish" : "Next";
    find("stop-early").hidden = numAnswered() === 0;
    updateScale();
    showSection("trial", "question");
  }

  function showHistory(trial) {
    find("history").hidden = !trial.turns.length;
    find("turns").replaceChildren();
    const sounds = trial.turns.map((turn) => turn.sound).filter(Boolean);
    find("play-history").hidden = sounds.length < 2;
    const players = [];
    for (const turn of trial.turns) {
      const line = document.createElement("li");
      const words = document.createElement("span");
      const speaker = document.createElement("span");
      speaker.className = "speaker";
      speaker.textContent = `Speaker ${turn.speaker + 1}: `;
      words.append(speaker, turn.text || "(no transcript)");
      line.append(words);
      if (turn.sound) {
        const button = document.createElement("button");
        button.type = "button";
        button.className = "player";
        line.append(button);
        const name = `turn ${find("turns").childElementCount + 1}`;
        players.push(makePlayer(button, name, [turn.sound], (sound) => onTurn(players, sound)));
      }
      find("turns").append(line);
    }
    if (sounds.length > 1) {
      const whole = makePlayer(find("play-history"), "the conversation", sounds, (sound) => onTurn(players, sound));
      players.push(whole);
    }
  }

  function onTurn(players, sound) {
    heard.add(sound);
    for (const player of players) {
      player.heard = player.sounds.every((part) => heard.has(part));
      player.draw();
    }
    updateScale(true);
  }

  function onClip(side) {
    return (sound) => {
      heard.add(sound);
      plays[side] += 1;
      updateScale(true);
    };
  }

  const isChosen = () => find("choices").querySelector("input:checked");

  function updateScale(aloud = false) {
    const trial = plan[position];
    const isAnswered = Boolean(run.answers[trial.id]);
    const waiting = [];
    if (trial.turns.some((turn) => turn.sound && !heard.has(turn.sound))) waiting.push("the conversation");
    if (!heard.has(trial.left)) waiting.push("A");
    if (!heard.has(trial.right)) waiting.push("B");
    const isOpen = isAnswered || !waiting.length;
    find("scale").disabled = !isOpen;
    find("next").disabled = !isOpen || !isChosen();
    const list = waiting.join(", ").replace(/, ([^,]*)$/, " and $1");
    const text = isOpen ? "Choose an answer. You may play the clips again." : `Play ${list} to the end; then you can answer.`;
    if (aloud && find("hint").textContent !== text) announce(text);
    find("hint").textContent = text;
  }

  function answerTrial() {
    const trial = plan[position];
    const before = run.answers[trial.id];
    run.answers[trial.id] = {
      rating: Number(isChosen().value),
      plays_left: plays.left + (before ? before.plays_left : 0),
      plays_right: plays.right + (before ? before.plays_right : 0),
      seconds: Math.round((Date.now() - shownAt) / 100) / 10 + (before ? before.seconds : 0),
    };
    const isKept = save();
    showTrial(before ? position + 1 : firstUnanswered());
    if (!isKept) complain("This browser keeps nothing: please do not reload or close the page before the end.");
  }

  function results() {
    const answers = plan.flatMap((trial, index) => {
      const answer = run.answers[trial.id];
      return answer ? [{ trial: trial.id, position: index + 1, left: trial.left, right: trial.right, ...answer }] : [];
    });
    return {
      format: RATINGS_FORMAT,
      version: VERSION,
      test: run.test,
      rater: run.rater,
      seed: run.seed,
      started: run.started,
      exported: new Date().toISOString(),
      num_trials: plan.length,
      answers,
    };
  }

  function showFinish() {
    const count = numAnswered();
    const isComplete = count === plan.length;
    const text = `${JSON.stringify(results(), null, 1)}\n`;
    find("finish-heading").textContent = isComplete ? "Thank you, that was all" : `You rated ${count} of ${plan.length}`;
    find("finish-text").textContent =
      "Download your ratings and send the file to whoever invited you. Nothing was sent by this page.";
    find("resume").hidden = isComplete;
    find("export").value = text;
    const link = find("download");
    if (link.href.startsWith("blob:")) URL.revokeObjectURL(link.href);
    link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    link.download = `ratings-${content.test}-${run.rater.replace(/[^A-Za-z0-9_-]+/g, "_")}.json`;
    showSection("finish", "finish-heading");
  }

  for (const [value, text] of SCALE) {
    const label = document.createElement("label");
    const input = document.createElement("input");
    input.type = "radio";
    input.name = "rating";
    input.value = String(value);
    label.append(input, text);
    find("choices").append(label);
  }

  find("choices").addEventListener("change", () => updateScale());
  find("start-form").addEventListener("submit", (event) => {
    event.preventDefault();
    start(find("rater").value.trim() || inventedRater());
  });
  find("rating-form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (!find("next").disabled) answerTrial();
  });
  find("back").addEventListener("click", () => showTrial(position - 1));
  find("stop-early").addEventListener("click", showFinish);
  find("resume").addEventListener("click", () => showTrial(firstUnanswered()));
  find("copy").addEventListener("click", async () => {
    find("export").select();
    try {
      await navigator.clipboard.writeText(find("export").value);
      announce("Copied.");
    } catch {
      announce("Selected: copy it with your browser.");
    }
  });
  find("again").addEventListener("click", () => {
    if (window.confirm("Have these ratings been downloaded or copied? They will be deleted from this browser.")) {
      forget();
      run = null;
      find("rater").value = "";
      showWelcome();
    }
  });

  run = load();
  if (run) {
    plan = planOf(run.seed);
    showTrial(firstUnanswered());
  } else {
    showWelcome();
  }
})();
