// Which page an address is, and what its parts are.

const ROUTES = [
  [/^\/$/, "overview", []],
  [/^\/runs\/([^/]+)$/, "run", ["run"]],
  [/^\/runs\/([^/]+)\/coverage$/, "coverage", ["run"]],
  [/^\/runs\/([^/]+)\/audit$/, "audit", ["run"]],
  [/^\/incidents\/([^/]+)$/, "incident", ["incident"]],
];

/** `{page, parameters}`, or null where there is no such page. */
export function match(pathname) {
  for (const [pattern, page, names] of ROUTES) {
    const found = pattern.exec(pathname);
    if (found) {
      const values = found.slice(1).map(decode);
      return { page, parameters: Object.fromEntries(names.map((name, i) => [name, values[i]])) };
    }
  }
  return null;
}

function decode(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** The address of a run's page, or of one of the pages below it ("coverage", "audit"). */
export function runPath(run, below = "") {
  return `/runs/${encodeURIComponent(run)}${below && `/${below}`}`;
}

/** The address of an incident's page. */
export function incidentPath(incident) {
  return `/incidents/${encodeURIComponent(incident)}`;
}

/** Whether this click is one that the page may follow by itself, and not the browser's. */
export function followable(event, link) {
  return (
    event.button === 0 &&
    !(event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) &&
    !event.defaultPrevented &&
    link.origin === location.origin &&
    !link.target &&
    !link.hasAttribute("download") &&
    match(link.pathname) !== null
  );
}
