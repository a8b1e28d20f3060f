// What must happen before or beside Gradio: the page's language, the colours chosen, copying, the chart's read-out.
(() => {
  // Gradio takes its own words from the browser's language; the page's language decides instead.
  for (const key of ["language", "languages"]) {
    const value = key === "language" ? window.wbLocale : [window.wbLocale];
    try { Object.defineProperty(navigator, key, { get: () => value, configurable: true }); } catch { /* a browser that forbids it keeps its own */ }
  }

  const stored = () => localStorage.getItem("wb-colours");
  const apply = () => {
    const wanted = stored();
    if (!wanted || !document.body) return;
    if (document.body.classList.contains("dark") !== (wanted === "dark")) document.body.classList.toggle("dark", wanted === "dark");
  };
  document.documentElement.dataset.colours = stored() || "";
  addEventListener("DOMContentLoaded", () => {
    apply();
    new MutationObserver(apply).observe(document.body, { attributes: true, attributeFilter: ["class"] });
  });

  // Errors of events, and a server that is gone: said once, above everything, until closed or over.
  const alertBox = (kind) => document.querySelector(`.wb-alert[data-kind=${kind}]`);
  const say = (kind, text) => {
    let box = alertBox(kind);
    if (!box) {
      box = document.createElement("div");
      box.className = "wb-alert";
      box.dataset.kind = kind;
      box.setAttribute("role", "alert");
      box.append(document.createElement("p"), document.createElement("button"));
      box.lastChild.type = "button";
      box.lastChild.textContent = "×";
      box.lastChild.setAttribute("aria-label", window.wbWords.close);
      box.lastChild.addEventListener("click", () => box.remove());
      (document.querySelector("main") || document.body).append(box);
    }
    box.firstChild.textContent = text;
  };
  const ask = window.fetch;
  window.fetch = async (...request) => {
    const url = String(request[0]?.url || request[0]);
    if (!url.includes("/gradio_api/run/predict") && !url.includes("/files/uploads")) return ask(...request);
    let answer;
    try { answer = await ask(...request); } catch (error) {
      if (!leaving) say("lost", window.wbWords.lost);
      throw error;
    }
    alertBox("lost")?.remove();
    if (answer.status >= 400) {
      const told = await answer.clone().json().catch(() => ({}));
      say("error", told.error || (typeof told.detail === "string" && told.detail) || window.wbWords.failed);
    }
    return answer;
  };
  window.wbUpload = async (file) => { // the answer of `uploads.py`, or null where something was said instead
    const sent = await fetch(`/files/uploads?name=${encodeURIComponent(file.name)}`, { method: "POST", body: file }).catch(() => null);
    return sent?.ok ? sent.json() : null;
  };
  let leaving = false; // requests that end with the page are no loss
  addEventListener("pagehide", () => { leaving = true; });
  addEventListener("beforeunload", () => { leaving = true; });

  const copy = async (button) => {
    const text = button.parentElement.querySelector("code").innerText;
    try { await navigator.clipboard.writeText(text); } catch {
      const range = document.createRange();
      range.selectNodeContents(button.parentElement.querySelector("code"));
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      document.execCommand("copy");
    }
    const label = button.textContent;
    button.textContent = "✓";
    setTimeout(() => { button.textContent = label; }, 1200);
  };

  document.addEventListener("click", (event) => {
    const colours = event.target.closest(".wb-theme");
    if (colours) {
      const dark = document.body.classList.contains("dark");
      localStorage.setItem("wb-colours", dark ? "light" : "dark");
      document.documentElement.dataset.colours = stored();
      apply();
    }
    const button = event.target.closest(".wb-copy");
    if (button) copy(button);
    const other = event.target.closest("a.wb-lang");
    if (other) {
      other.search = location.search; // the same job or adapter, in the other language
      document.cookie = `wb-lang=${other.pathname.split("/")[1]};path=/;max-age=31536000;samesite=lax`;
    }
    const skip = event.target.closest(".wb-skip");
    if (skip) { event.preventDefault(); document.getElementById("wb-top")?.focus(); }
  });

  // Gradio's folds do not say whether they are open.
  const mark = () => {
    document.querySelectorAll(".gr-accordion > .label-wrap").forEach((button) => {
      const content = button.parentElement.querySelector(":scope > [data-testid=accordion-content]");
      button.querySelector(".icon")?.setAttribute("aria-hidden", "true");
      if (content) button.setAttribute("aria-expanded", String(content.style.display !== "none"));
    });
  };
  addEventListener("load", () => setTimeout(mark, 1500));
  document.addEventListener("focusin", mark);
  document.addEventListener("click", () => setTimeout(mark, 80));

  // The chart: a line under the pointer with the step and the value drawn nearest to it.
  const readOut = (plot, clientX) => {
    const chart = plot.closest(".wb-chart");
    const line = plot.querySelector("polyline.mean") || plot.querySelector("polyline.eval");
    if (!line) return;
    const box = plot.getBoundingClientRect();
    const wanted = (clientX - box.left) / box.width * 1000;
    let nearest = null;
    for (const pair of line.getAttribute("points").split(" ")) {
      const [x, y] = pair.split(",").map(Number);
      if (!nearest || Math.abs(x - wanted) < Math.abs(nearest[0] - wanted)) nearest = [x, y];
    }
    const { right, low, high, step } = chart.dataset;
    const value = Number(low) + (1 - nearest[1] / 400) * (Number(high) - Number(low));
    let mark = plot.querySelector(".read-out");
    if (!mark) { mark = document.createElement("div"); mark.className = "read-out"; mark.append(document.createElement("span")); plot.append(mark); }
    mark.style.left = `${nearest[0] / 10}%`;
    mark.classList.toggle("flip", nearest[0] > 600);
    mark.firstChild.textContent = `${step} ${Math.round(nearest[0] / 1000 * Number(right))}: ${value.toPrecision(3)}`;
  };
  document.addEventListener("pointermove", (event) => {
    const plot = event.target.closest?.(".wb-plot");
    document.querySelectorAll(".read-out").forEach((mark) => { if (!plot || !plot.contains(mark)) mark.remove(); });
    if (plot) readOut(plot, event.clientX);
  });
})();
