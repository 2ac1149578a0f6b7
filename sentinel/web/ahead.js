// Asks for what the page in view begins with before anything else is done, so that the daemon works
// out the charts of a long run while the page is being made.

import { ahead, takeTokenFromAddress, token } from "./api.js";
import { FIRST, seriesPath } from "./chartlist.js";
import { match } from "./router.js";
import { Window } from "./window.js";

const OPENINGS = {
  overview: () => ["/runs"],
  run: ({ run }) => {
    const path = `/runs/${encodeURIComponent(run)}`;
    const within = new Window(new URLSearchParams(location.search)).asked();
    return [seriesPath(run, FIRST, within), `${path}/signals`, path, `${path}/marks`];
  },
  incident: ({ incident }) => [`/incidents/${encodeURIComponent(incident)}`],
};

takeTokenFromAddress();
const found = match(location.pathname);
if (token() && found) ["/whoami", ...(OPENINGS[found.page]?.(found.parameters) ?? [])].forEach(ahead);
