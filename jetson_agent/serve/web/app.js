"use strict";
// The page of a device's service: push to talk, read the reply as it comes, say what was misheard.

const at = (id) => document.getElementById(id);
let token = sessionStorage.getItem("token") || "";
let socket = null, audio = null, capture = null, talking = false, turn = null;

const headers = () => ({ "Content-Type": "application/json", ...(token ? { Authorization: `Bearer ${token}` } : {}) });

async function ask(path, body) {
  const answer = await fetch(path, { method: body === undefined ? "GET" : "POST", headers: headers(),
    body: body === undefined ? undefined : JSON.stringify(body) });
  if (answer.status === 401) at("token-form").hidden = false;
  const told = await answer.json();
  if (!answer.ok) throw new Error(told.detail || answer.statusText);
  return told;
}

function complain(problem) {
  at("problem").textContent = problem || "";
  at("problem").hidden = !problem;
}

const tried = (work) => async (event) => {
  try { complain(""); await work(event); } catch (error) { complain(error.message); }
};

async function showStatus() {
  try {
    const told = await ask("/v1/status");
    const version = told.version ? `version ${told.version}` : "the base, nothing personal yet";
    const learning = told.learning.state === "learning" ? " · learning…"
      : told.learning.last ? ` · last: ${told.learning.last.taken ? "learned" : "not taken"} (${told.learning.last.why})` : "";
    at("status").textContent = `${told.cohort}/${told.user} · ${version} · ${told.corrections} corrections${learning}`;
    at("token-form").hidden = true;
    at("learn").disabled = told.learning.state === "learning";
    at("rollback").disabled = told.version === null;
    at("talk").disabled = false;
  } catch (error) {
    at("status").textContent = error.message;
  }
}

function connected() {
  if (socket && socket.readyState === WebSocket.OPEN) return Promise.resolve();
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  const names = ["edgealign", ...(token ? [`edgealign.bearer.${token}`] : [])];
  socket = new WebSocket(`${scheme}://${location.host}/v1/talk`, names);
  socket.onmessage = (event) => show(JSON.parse(event.data));
  socket.onclose = () => {
    if (talking) complain("the connection was lost: press Talk again");
    rest();
  };
  return new Promise((done, fail) => {
    socket.onopen = done;
    socket.onerror = () => fail(new Error("the service does not answer: is it running, and the token right?"));
  });
}

async function listen() {
  if (audio) return;
  if (!navigator.mediaDevices) throw new Error("the browser gives a microphone to https and localhost alone");
  const stream = await navigator.mediaDevices.getUserMedia({
    audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false } });
  audio = new AudioContext({ sampleRate: 16000 });
  await audio.audioWorklet.addModule("/capture.js");
  capture = new AudioWorkletNode(audio, "capture");
  capture.port.onmessage = (event) => {
    at("level").value = talking ? event.data.peak : 0;
    if (talking && socket.readyState === WebSocket.OPEN) socket.send(event.data.samples);
  };
  audio.createMediaStreamSource(stream).connect(capture);
}

async function begin() {
  if (talking) return;
  await connected();
  await listen();
  await audio.resume();
  socket.send(JSON.stringify({ type: "start", rate_hz: audio.sampleRate }));
  talking = true;
  at("talk").setAttribute("aria-pressed", "true");
  at("talk").textContent = "Listening…";
}

function rest() {
  talking = false;
  at("level").value = 0;
  at("talk").setAttribute("aria-pressed", "false");
  at("talk").textContent = "Talk";
}

function end() {
  if (!talking) return;
  rest();
  socket.send(JSON.stringify({ type: "end" }));
}

function show(message) {
  if (message.type === "error") {
    complain(message.detail);
  } else if (message.type === "heard") {
    turn = at("turn").content.cloneNode(true).firstElementChild;
    const entry = turn;
    entry.dataset.utterance = message.utterance;
    entry.querySelector(".text").textContent = message.text || "(no word heard)";
    const form = entry.querySelector("form"), field = form.querySelector("input"), fix = entry.querySelector(".fix");
    fix.onclick = () => { form.hidden = false; field.value = message.text; field.focus(); };
    form.onsubmit = tried(async (event) => {
      event.preventDefault();
      const told = await ask("/v1/corrections", { utterance: message.utterance, text: field.value });
      form.hidden = true;
      fix.replaceWith(Object.assign(document.createElement("span"),
        { className: "small remembered", textContent: `remembered: ${told.text}` }));
      showStatus();
    });
    at("turns").append(entry);
    at("hint").hidden = true;
  } else if (message.type === "token") {
    turn.querySelector(".reply").textContent += message.text;
  } else if (message.type === "done") {
    turn.querySelector(".reply").textContent = message.reply;
    const first = message.seconds.first_token;
    turn.querySelector(".took").textContent = `sure to ${Math.round(100 * message.confidence)} %`
      + (first === null ? "" : ` · first word after ${Math.round(1000 * first)} ms`);
    turn.dataset.done = "true";
  }
  window.scrollTo(0, document.body.scrollHeight);
}

at("talk").onclick = tried(() => (talking ? end() : begin()));
document.addEventListener("keydown", (event) => {
  const busy = ["INPUT", "BUTTON", "A"].includes(document.activeElement.tagName);
  if (event.code === "Space" && !event.repeat && !busy) { event.preventDefault(); tried(begin)(); }
});
document.addEventListener("keyup", (event) => {
  const busy = ["INPUT", "BUTTON", "A"].includes(document.activeElement.tagName);
  if (event.code === "Space" && !busy) end();
});
at("learn").onclick = tried(async () => { await ask("/v1/adaptations", {}); showStatus(); });
at("rollback").onclick = tried(async () => { await ask("/v1/rollback", { why: "asked for on the page" }); showStatus(); });
at("token-form").onsubmit = (event) => {
  event.preventDefault();
  token = at("token").value.trim();
  sessionStorage.setItem("token", token);
  showStatus();
};
showStatus();
setInterval(showStatus, 3000);
