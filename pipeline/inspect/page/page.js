"use strict";
(() => {
  const panel = document.getElementById("token-panel");
  if (!panel) return;
  const make = (tag, cls, text) => {
    const node = document.createElement(tag);
    if (cls) node.className = cls;
    if (text !== undefined) node.textContent = text;
    return node;
  };
  const percent = (logprob) => {
    const p = Math.exp(logprob);
    return p >= 0.0995 ? (100 * p).toFixed(0) + " %" : p >= 0.0001 ? (100 * p).toPrecision(2) + " %" : p.toExponential(1);
  };
  const spelled = (text) => (text === "" ? "∅" : text.replaceAll("\n", "⏎").replaceAll("\t", "⇥").replaceAll(" ", "␣"));
  let current = null;
  let chosen = null; // what the keyboard or a tap selected stays when the pointer leaves

  const bar = (text, logprob, mine) => {
    const line = make("li", mine ? "mine" : "");
    line.append(make("bdi", "what", spelled(text)));
    const track = make("span", "track");
    const fill = make("span", "fill");
    fill.style.width = Math.max(0.5, 100 * Math.exp(logprob)) + "%";
    track.append(fill);
    line.append(track, make("span", "much", percent(logprob)));
    return line;
  };

  const show = (token) => {
    if (current === token) return;
    if (current) current.classList.remove("now");
    current = token;
    if (!token) return;
    token.classList.add("now");
    const d = token.dataset;
    const text = token.textContent.replaceAll("⏎\n", "\n").replaceAll("⇥\t", "\t");
    const facts = make("p", "of");
    facts.append(make("bdi", "what", spelled(text)));
    const said = ["token " + d.id];
    if (d.r) said.push("rank " + Number(d.r).toLocaleString("en"));
    if (d.p) said.push("probability " + percent(Number(d.p)) + " (log " + d.p + ")");
    if (d.e) said.push("entropy " + d.e + " nats");
    facts.append(make("span", "", said.join(" · ")));
    const list = make("ol", "bars");
    const choices = d.a ? JSON.parse(d.a) : [];
    for (const [text, id, logprob] of choices) list.append(bar(text, logprob, String(id) === d.id));
    if (d.p && !choices.some(([, id]) => String(id) === d.id)) list.append(bar(text, Number(d.p), true));
    panel.replaceChildren(facts, list);
  };

  const select = (list, token) => {
    for (const other of list.querySelectorAll('[aria-selected="true"]')) other.setAttribute("aria-selected", "false");
    token.setAttribute("aria-selected", "true");
    list.setAttribute("aria-activedescendant", token.id);
    chosen = token;
    show(token);
  };

  for (const list of document.querySelectorAll(".tokens")) {
    const all = list.children;
    list.addEventListener("pointerover", (event) => {
      const token = event.target.closest(".t");
      if (token) show(token);
    });
    list.addEventListener("pointerleave", () => chosen && show(chosen));
    list.addEventListener("click", (event) => {
      const token = event.target.closest(".t");
      if (token) select(list, token);
    });
    list.addEventListener("focus", () => {
      const at = document.getElementById(list.getAttribute("aria-activedescendant"));
      if (list.matches(":focus-visible")) select(list, at || all[0]);
    });
    list.addEventListener("keydown", (event) => {
      const at = Array.prototype.indexOf.call(all, document.getElementById(list.getAttribute("aria-activedescendant")));
      const to = { ArrowRight: at + 1, ArrowLeft: at - 1, ArrowDown: at + 10, ArrowUp: at - 10, Home: 0, End: all.length - 1 }[event.key];
      if (to === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      select(list, all[Math.min(all.length - 1, Math.max(0, to))]);
    });
  }
})();
