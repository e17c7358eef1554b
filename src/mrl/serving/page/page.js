"use strict";

const byId = (id) => document.getElementById(id);
const TOKEN_KEY = "mrl-token";
const MICROPHONE = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false };
const KINDS = ["audio/webm;codecs=opus", "audio/mp4", "audio/ogg;codecs=opus"];

let limits = { max_seconds: 60, max_bytes: 20e6, max_files: 10, max_name: 100 };

/** An element with text; everything shown goes through textContent, so that no name can become markup. */
function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

/* ---- the API ---- */

function takeTokenFromAddress() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!given) return;
  sessionStorage.setItem(TOKEN_KEY, given);
  history.replaceState(null, "", location.pathname); // out of the address, the history and screenshots
}

class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function ask(method, path, form) {
  const headers = { Authorization: `Bearer ${sessionStorage.getItem(TOKEN_KEY) || ""}` };
  let answer;
  try {
    answer = await fetch(path, { method, headers, body: form });
  } catch {
    throw new ApiError(0, "The server does not answer. Is it still running?");
  }
  if (answer.status === 204) return null;
  const found = await answer.json().catch(() => ({}));
  if (answer.ok) return found;
  if (answer.status === 401) showTokenForm();
  throw new ApiError(answer.status, found.error || `The server answered ${answer.status}.`);
}

/* ---- recordings ---- */

/** Recording by the microphone or choosing files, in one panel. */
class RecordingInput {
  constructor(place, several) {
    this.several = several;
    this.files = [];
    this.recorder = null;
    place.append(byId("recorder").content.cloneNode(true));
    this.button = place.querySelector(".record");
    this.note = place.querySelector(".note");
    this.list = place.querySelector(".chosen");
    const chooser = place.querySelector(".file");
    chooser.multiple = several;
    if (several) chooser.parentElement.firstChild.textContent = "Choose files";
    chooser.addEventListener("change", () => {
      for (const file of chooser.files) this.add(file);
      chooser.value = "";
    });
    this.button.addEventListener("click", () => (this.recorder ? this.stop() : this.record()));
    if (!navigator.mediaDevices || !window.MediaRecorder) {
      this.button.disabled = true;
      this.note.textContent = "Browsers give the microphone to this page only at 127.0.0.1, localhost or an https address.";
    }
  }

  add(file) {
    const held = this.several ? this.files.reduce((sum, one) => sum + one.size, 0) : 0;
    if (held + file.size > limits.max_bytes) {
      this.note.textContent = `${file.name}: a request may have ${limits.max_bytes / 1e6} MB at most.`;
      return;
    }
    if (this.several && this.files.length >= limits.max_files) {
      this.note.textContent = `${limits.max_files} recordings at most.`;
      return;
    }
    this.note.textContent = "";
    this.files = this.several ? [...this.files, file] : [file];
    this.draw();
  }

  clear() {
    this.files = [];
    this.draw();
  }

  draw() {
    for (const sound of this.list.querySelectorAll("audio")) {
      const address = sound.src;
      sound.removeAttribute("src");
      sound.load(); // lets go of the recording before its address ends
      URL.revokeObjectURL(address);
    }
    this.list.replaceChildren(
      ...this.files.map((file) => {
        const row = make("li");
        const sound = make("audio");
        sound.controls = true;
        sound.src = URL.createObjectURL(file);
        sound.setAttribute("aria-label", `Play ${file.name}`);
        const drop = make("button", "", "Leave out");
        drop.type = "button";
        drop.setAttribute("aria-label", `Leave out ${file.name}`);
        drop.addEventListener("click", () => {
          this.files = this.files.filter((one) => one !== file);
          this.draw();
        });
        row.append(make("span", "name", file.name), sound, drop);
        return row;
      }),
    );
  }

  async record() {
    this.button.disabled = true;
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ audio: MICROPHONE });
    } catch (error) {
      this.note.textContent = `No microphone: ${error.message}`;
      return;
    } finally {
      this.button.disabled = false;
    }
    const kind = KINDS.find((one) => MediaRecorder.isTypeSupported(one));
    const pieces = [];
    const recorder = new MediaRecorder(stream, kind ? { mimeType: kind } : {});
    const started = performance.now();
    const clock = setInterval(() => {
      const seconds = (performance.now() - started) / 1000;
      this.note.textContent = `Recording: ${seconds.toFixed(0)} s of ${limits.max_seconds} s at most`;
      if (seconds >= limits.max_seconds - 0.5) this.stop();
    }, 250);
    recorder.addEventListener("dataavailable", (event) => pieces.push(event.data));
    recorder.addEventListener("stop", () => {
      clearInterval(clock);
      for (const track of stream.getTracks()) track.stop();
      this.recorder = null;
      this.setButton(false);
      this.note.textContent = "";
      const type = recorder.mimeType.split(";")[0];
      const time = new Date().toTimeString().slice(0, 8);
      this.add(new File(pieces, `recording at ${time}.${type.split("/")[1]}`, { type }));
    });
    recorder.start();
    this.recorder = recorder;
    this.setButton(true);
  }

  stop() {
    if (this.recorder && this.recorder.state !== "inactive") this.recorder.stop();
  }

  setButton(recording) {
    this.button.setAttribute("aria-pressed", String(recording));
    this.button.querySelector(".what").textContent = recording ? "Stop" : "Record";
  }
}

/* ---- results ---- */

function bar(dim, score, detail) {
  const row = make("div", "score");
  const track = make("div", "track");
  const fill = make("div", "fill");
  track.setAttribute("aria-hidden", "true"); // the number beside it says the same
  fill.style.width = `${Math.max(0, Math.min(1, score)) * 100}%`;
  track.append(fill);
  row.append(make("span", "quiet", `${dim} dims`), track, make("span", "value", score.toFixed(3)));
  if (detail) row.append(make("p", "detail quiet", detail));
  return row;
}

/** What a log-likelihood ratio is called; nothing where there is none. */
const inWords = (ratio) => (ratio === undefined || ratio === null ? "" : `log-likelihood ratio ${ratio.toFixed(2)}`);

function bars(title, scores, ratio) {
  const section = make("div", "voice-scores");
  section.append(make("h3", "", title));
  if (inWords(ratio)) section.append(make("p", "quiet", inWords(ratio)));
  for (const one of scores) section.append(bar(one.dim, one.score, inWords(one.log_likelihood_ratio)));
  return section;
}

function show(verdict, mood, ...parts) {
  const card = make("div", "card");
  card.append(make("p", `verdict ${mood}`, verdict), ...parts.filter(Boolean));
  byId("result").replaceChildren(card);
  card.scrollIntoView({ block: "nearest" });
}

function showError(error) {
  const card = make("div", "card");
  card.append(make("p", "message error", error.message));
  byId("result").replaceChildren(card);
}

const warningsOf = (found) => found.warnings.map((text) => make("p", "message", text));
const NO_DECISION = "No decision: the model is not calibrated (mrl calibrate). The scores are cosines; the same voice has higher ones.";

const decidedBy = (dims, basis, threshold) => `Decided by ${dims}, ${basis}: yes from a log-likelihood ratio of ${threshold.toFixed(2)} on.`;

function showVerified(found) {
  const verdict = found.accepted === null ? `Compared with ${found.name}` : found.accepted ? `The voice of ${found.name}` : `Not the voice of ${found.name}`;
  const mood = found.accepted === null ? "" : found.accepted ? "yes" : "no";
  const basis = found.accepted === null ? NO_DECISION : decidedBy(`${found.decided_at_dim} dims`, found.basis, found.scores.find((one) => one.dim === found.decided_at_dim).threshold);
  show(verdict, mood, make("p", "quiet", basis), ...warningsOf(found), bars("Likeness at each length", found.scores));
}

function showIdentified(found) {
  const best = found.candidates[0];
  const verdict = !found.decided ? (best ? `Most like ${best.name}` : "No voice is left") : found.name === null ? "Unknown" : found.name;
  const mood = !found.decided ? "" : found.name === null ? "no" : "yes";
  const basis = found.decided ? decidedBy("all dims", found.basis, found.threshold) : NO_DECISION;
  const lists = found.candidates.map((one) => bars(one.name, one.scores, one.log_likelihood_ratio));
  show(verdict, mood, make("p", "quiet", basis), ...warningsOf(found), ...lists);
}

/* ---- voices ---- */

async function refreshVoices() {
  const found = await ask("GET", "/api/voices");
  const chosen = byId("verify-name").value;
  byId("verify-name").replaceChildren(...found.voices.map((voice) => make("option", "", voice.name)));
  if (found.voices.some((voice) => voice.name === chosen)) byId("verify-name").value = chosen;
  const rows = found.voices.map((voice) => {
    const row = make("li");
    const number = `${voice.recordings} recording${voice.recordings === 1 ? "" : "s"}, ${voice.seconds.toFixed(1)} s`;
    const remove = make("button", "", "Delete");
    remove.setAttribute("aria-label", `Delete ${voice.name}`);
    remove.addEventListener("click", () => removeVoice(voice.name));
    row.append(make("span", "name", voice.name), make("span", "quiet", number), remove);
    return row;
  });
  if (!rows.length) rows.push(make("li", "quiet", "None yet."));
  if (found.total > found.voices.length) rows.push(make("li", "quiet", `and ${found.total - found.voices.length} more`));
  byId("voices").replaceChildren(...rows);
}

async function removeVoice(name) {
  if (!confirm(`Delete the voice ${name}? This cannot be undone.`)) return;
  try {
    await ask("DELETE", `/api/voices?name=${encodeURIComponent(name)}`);  // a name may hold a slash
    show(`${name} is deleted`, "");
    await refreshVoices();
  } catch (error) {
    showError(error);
  }
}

/* ---- the page ---- */

function showTokenForm() {
  byId("token-form").hidden = false;
  byId("work").hidden = true;
  byId("token").focus();
}

async function open() {
  const model = await ask("GET", "/api/model");
  limits = model.limits;
  byId("model").textContent = `${model.name}, ${model.embed_dim} dims`;
  byId("enrol-name").maxLength = limits.max_name;
  byId("token-form").hidden = true;
  byId("work").hidden = false;
  await refreshVoices();
}

function choose(tab) {
  for (const one of document.querySelectorAll("[role=tab]")) {
    const chosen = one === tab;
    one.setAttribute("aria-selected", String(chosen));
    one.tabIndex = chosen ? 0 : -1;
    byId(one.getAttribute("aria-controls")).hidden = !chosen;
  }
  byId("result").replaceChildren();
}

function setUpTabs() {
  const tabs = [...document.querySelectorAll("[role=tab]")];
  tabs.forEach((tab, place) => {
    tab.addEventListener("click", () => choose(tab));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = tabs[(place + step + tabs.length) % tabs.length];
      choose(next);
      next.focus();
    });
  });
}

/** Let a panel send its recordings: `fill` adds its fields to the form, `done` shows the answer. */
function setUpPanel(id, several, fill, done) {
  const panel = byId(id);
  const input = new RecordingInput(panel.querySelector(".recordings"), several);
  const button = panel.querySelector("button.primary");
  panel.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (!input.files.length) {
      input.note.textContent = "Record something or choose a file first.";
      return;
    }
    const form = new FormData();
    for (const file of input.files) form.append(several ? "files" : "file", file, file.name);
    fill(form);
    button.disabled = true;
    input.note.textContent = "Listening…";
    try {
      await done(await ask("POST", `/api/${id}`, form), input);
    } catch (error) {
      showError(error);
    } finally {
      button.disabled = false;
      if (input.note.textContent === "Listening…") input.note.textContent = "";
    }
  });
}

setUpTabs();
setUpPanel("identify", false, () => {}, showIdentified);
setUpPanel("verify", false, (form) => form.append("name", byId("verify-name").value), showVerified);
setUpPanel(
  "enrol",
  true,
  (form) => {
    form.append("name", byId("enrol-name").value);
    form.append("add", String(byId("enrol-add").checked));
  },
  async (found, input) => {
    input.clear();
    await refreshVoices();
    const { name, recordings, seconds } = found.voice;
    show(`${name} is enrolled`, "yes", make("p", "quiet", `${recordings} recording${recordings === 1 ? "" : "s"}, ${seconds.toFixed(1)} s in all`), ...warningsOf(found));
  },
);
byId("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(TOKEN_KEY, byId("token").value.trim());
  open().catch((error) => (byId("token-note").textContent = error.message));
});
function start() {
  takeTokenFromAddress();
  open().catch((error) => {
    if (error.status !== 401) byId("model").textContent = error.message;
  });
}

addEventListener("hashchange", start); // an address with a token, pasted where the page is open already
start();
