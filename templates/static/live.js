// Keeps a page's cards fresh, shows previews, and copies texts. Pages work without it: they reload.
"use strict";

// ---------------------------------------------------------------- changing what is shown, and nothing else

function alike(one, other) {
  return one.nodeName === other.nodeName && (one.id || "") === (other.id || "");
}

// Makes `shown` the same as `fresh`, keeping elements: focus, opened details and scroll positions stay.
function morph(shown, fresh) {
  if (shown.nodeType !== Node.ELEMENT_NODE) {
    if (shown.nodeValue !== fresh.nodeValue) shown.nodeValue = fresh.nodeValue;
    return;
  }
  if (shown.hasAttribute("data-keep") || shown.isEqualNode(fresh)) return;
  for (const { name } of [...shown.attributes]) {
    if (!fresh.hasAttribute(name) && name !== "open") shown.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (name !== "open" && shown.getAttribute(name) !== value) shown.setAttribute(name, value);
  }
  morphChildren(shown, fresh);
}

function morphChildren(shown, fresh) {
  let at = shown.firstChild;
  for (const next of [...fresh.childNodes]) {
    let same = at && alike(at, next) ? at : null;
    if (!same && next.id) same = [...shown.children].find((child) => child.id === next.id) ?? null;
    if (same) {
      if (same !== at) shown.insertBefore(same, at);
      else at = at.nextSibling;
      morph(same, next);
    } else {
      shown.insertBefore(next, at);
    }
  }
  while (at) {
    const gone = at;
    at = at.nextSibling;
    gone.remove();
  }
}

function parsed(html) {
  const template = document.createElement("template");
  template.innerHTML = html;
  return template.content;
}

// ---------------------------------------------------------------- live cards

const live = document.getElementById("live");
const link = document.getElementById("link");
const none = document.getElementById("none");

const SLICE_MS = 10; // of script at once: the page stays smooth however much has changed
const waiting = new Map(); // what is not shown yet: the latest HTML of each element
let wantedOrder = null;
let busy = false;

function show(id, text) {
  const shown = document.getElementById(id);
  if (!id.startsWith("card-")) {
    if (shown) morphChildren(shown, parsed(text));
  } else if (shown) {
    morph(shown, parsed(text).firstElementChild);
  } else {
    live.append(parsed(text));
  }
}

function arrange(order) {
  const wanted = new Set(order);
  for (const card of [...live.children]) if (!wanted.has(card.id)) card.remove();
  order.forEach((id, index) => {
    const card = document.getElementById(id);
    if (card && live.children[index] !== card) live.insertBefore(card, live.children[index] ?? null);
  });
  none.hidden = order.length > 0;
}

function work() {
  if (document.hidden) {
    busy = false; // goes on when somebody looks
    return;
  }
  const began = performance.now();
  for (const [id, text] of waiting) {
    waiting.delete(id);
    show(id, text);
    if (performance.now() - began > SLICE_MS) break;
  }
  if (!waiting.size && wantedOrder) {
    arrange(wantedOrder);
    wantedOrder = null;
  }
  performance.measure("tvarr event", { start: began });
  busy = waiting.size > 0;
  if (busy) requestAnimationFrame(work);
}

function begin() {
  if (busy || !(waiting.size || wantedOrder)) return;
  busy = true;
  requestAnimationFrame(work);
}

function apply({ html, order }) {
  for (const [id, text] of Object.entries(html)) {
    waiting.delete(id); // to the end
    waiting.set(id, text);
  }
  if (order) wantedOrder = order;
  begin();
}
document.addEventListener("visibilitychange", begin);

function follow() {
  let source = null;
  let stamp = new URL(live.dataset.live, location.href).searchParams.get("at");
  let pause = 500;
  const say = (words) => {
    if (link.textContent !== words) link.textContent = words;
  };
  const listen = () => {
    const url = new URL(live.dataset.live, location.href);
    url.searchParams.set("at", stamp);
    source = new EventSource(url);
    source.onopen = () => {
      pause = 500;
      say("live");
    };
    source.addEventListener("change", (event) => {
      stamp = event.lastEventId;
      apply(JSON.parse(event.data));
    });
    source.onerror = async () => {
      say("connecting…");
      if (source.readyState !== EventSource.CLOSED) return; // it tries again by itself
      await new Promise((resolve) => setTimeout(resolve, pause));
      pause = Math.min(2 * pause, 10000);
      const page = await fetch(location.href, { method: "HEAD" }).catch(() => null);
      if (page?.redirected || page?.status === 404) location.reload(); // logged out, or gone
      else if (source) listen();
    };
  };
  listen();
  addEventListener("pagehide", () => {
    source.close();
    source = null;
  });
  addEventListener("pageshow", (event) => event.persisted && listen());
}
if (live && "EventSource" in window) follow();

// ---------------------------------------------------------------- buttons

document.addEventListener("submit", async (event) => {
  const form = event.target;
  if (!form.hasAttribute("data-stay")) return;
  event.preventDefault();
  const button = event.submitter;
  if (button) button.disabled = true;
  try {
    const answer = await fetch(form.action, { method: "POST", body: new URLSearchParams(new FormData(form)) });
    if (!answer.ok) throw new Error(`${answer.status}`);
  } catch {
    form.submit(); // shows what is wrong
  } finally {
    if (button) setTimeout(() => (button.disabled = false), 500);
  }
});

async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = document.createElement("textarea"); // pages without https have no clipboard
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

async function registration() {
  const answer = await fetch("/api/v1/registration");
  const { container, command, compose } = await answer.json();
  return { "command-container": container, "command-machine": command, "command-compose": compose };
}

for (const button of document.querySelectorAll("[data-copy]")) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    const element = document.getElementById(button.dataset.copy);
    await copy(element.hasAttribute("data-secret") ? (await registration())[element.id] : element.href || element.textContent);
    const words = button.textContent;
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = words), 1500);
  });
}

document.addEventListener("click", async (event) => {
  const reveal = event.target.closest("[data-reveal]");
  const preview = event.target.closest("[data-preview]");
  if (reveal && reveal.textContent.startsWith("Show")) {
    event.preventDefault();
    for (const [id, text] of Object.entries(await registration())) document.getElementById(id).textContent = text;
    reveal.textContent = "Hide the token";
  } else if (preview) {
    event.preventDefault();
    play(document.getElementById(preview.dataset.preview), preview.href);
  }
});

// ---------------------------------------------------------------- previews

// Why a stream is not to be had; empty where it is. A video element only tells that it failed.
async function refusal(url) {
  const leaving = new AbortController();
  try {
    const answer = await fetch(url, { signal: leaving.signal });
    return answer.ok ? "" : (await answer.json()).detail;
  } catch {
    return "the coordinator does not answer";
  } finally {
    leaving.abort();
  }
}

function play(box, url) {
  const before = box.querySelector("video");
  const again = before?.getAttribute("src") === url;
  if (before) {
    before.removeAttribute("src");
    before.load(); // lets go of the stream
  }
  box.replaceChildren();
  if (again) return;
  const video = document.createElement("video");
  video.muted = video.autoplay = video.controls = video.playsInline = true;
  video.setAttribute("aria-label", "Preview");
  const words = document.createElement("p");
  words.className = "hint";
  words.setAttribute("role", "status");
  words.textContent = "loading…";
  video.addEventListener("loadeddata", () => {
    words.textContent = `${video.videoWidth}×${video.videoHeight}, as a viewer of its own; press the button again to end it`;
  });
  video.addEventListener("error", async () => {
    if (!video.hasAttribute("src")) return;
    words.textContent = (await refusal(url)) || "This browser can't play it: try a profile with H.264 and AAC.";
  });
  video.src = url;
  box.append(video, words);
}
