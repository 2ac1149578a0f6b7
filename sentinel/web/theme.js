// The theme that was chosen, set before anything is drawn. A classic script: modules run too late.
"use strict";

try {
  const chosen = localStorage.getItem("sentinel.theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // A browser that keeps nothing follows the system.
}
