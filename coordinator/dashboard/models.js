// What is served, and what stands ready on disk.
import { byId, bytes, copier, el, plural, show, whole } from "./page.js";

export function showModels({ models, status, plan, error }) {
  if (!models || !status) {
    show(byId("models"), !error && el("p.empty", "Looking …"));
    return;
  }
  const { served } = models;
  show(
    byId("models"),
    el("h2", "Served now"),
    el(
      "div.card",
      { key: "served" },
      el("h3", served.id),
      el("p.small.mono.wrap", served.path),
      el("p", [`${bytes(served.bytes)} on disk`, status.context > 0 && `context ${whole(status.context)} tokens`, plan && `cache ${plan.kv}`, status.stages > 0 && plural(status.stages, "stage")].filter(Boolean).join(" · ")),
      el("p.small", "Clients name it ", el("code", served.id), " ", copier(served.id)),
    ),
    el("h2", "Added on this machine"),
    models.models.length
      ? el("ul.rows", models.models.map((model) => el("li", { key: model.name }, el("div", el("b", model.name), el("span.small", `${model.model} · ${bytes(model.bytes)}`), model.missing_bytes > 0 && el("span.said", `${bytes(model.missing_bytes)} are missing: run coordinator model add again`)), model.served ? el("span.chip", "served") : copier(`coordinator serve --model ${model.name}`, "Copy command"))))
      : el("p.empty", "None yet."),
    el("p.small", "To fetch one: ", el("code.wrap", "coordinator model add hf:ORG/REPO"), ". To serve another, start the coordinator with its name."),
  );
}
