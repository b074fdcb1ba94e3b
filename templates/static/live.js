// Loads the page's live part again when the coordinator says that it has changed.
"use strict";

const live = document.getElementById("live");

function typing() {
  const active = document.activeElement;
  return live.contains(active) && active.matches("input, select, textarea");
}

async function refresh() {
  const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
  if (answer.redirected) {
    location.reload(); // logged out
    return;
  }
  if (!answer.ok) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const fresh = page.getElementById("live");
  if (!fresh) return;
  for (const details of fresh.querySelectorAll("details[id]")) {
    const shown = document.getElementById(details.id);
    if (shown) details.open = shown.open;
  }
  live.replaceChildren(...fresh.childNodes);
}

if (live && "EventSource" in window) {
  let wanted = false;
  let busy = false;
  const run = async () => {
    if (busy || !wanted || document.hidden || typing()) return;
    busy = true;
    wanted = false;
    try {
      await refresh();
    } catch {
      wanted = true; // the coordinator is away; the next event tries again
    } finally {
      busy = false;
    }
  };
  let source = null;
  let first = true;
  const listen = () => {
    source = new EventSource("/api/v1/events");
    source.addEventListener(live.dataset.events, () => {
      if (first) {
        first = false; // it tells what the page shows already
        return;
      }
      wanted = true;
      run();
    });
  };
  listen();
  document.addEventListener("visibilitychange", run);
  addEventListener("pagehide", () => source.close());
  addEventListener("pageshow", (event) => event.persisted && listen());
}
