// What lets this page in: a token, which its stream has in a cookie because an EventSource cannot set header
// fields, or the query of a signed URL. Nothing here is checked: the server does that.

const COOKIE = "fanfare";
// Browsers drop a cookie whose name and value are longer.
const COOKIE_BYTES = 4096;

// What a text that a person gave is: `kind` is "none", "token", "url" or "unknown", and `says` is for the
// person.
export function accessOf(text) {
  if (text === "") {
    return { kind: "none", says: "None. A server without keys asks for none." };
  }
  if (/^[\w-]+\.[\w-]+\.[\w-]+$/.test(text)) {
    return { kind: "token", says: tokenSays(text) };
  }
  const query = new URLSearchParams(text);
  if (query.has("signature") && query.has("topic")) {
    const topics = query.getAll("topic");
    const until = whenSays(Number(query.get("expires")));
    return { kind: "url", topics, says: `A signed URL for ${topics.join(", ")}. ${until}` };
  }
  return { kind: "unknown", says: "This is neither a token, which has three parts, nor the query of a signed URL." };
}

// The claims of a token, for a person.
function tokenSays(token) {
  let claims;
  try {
    const base64 = token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
    const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
    claims = JSON.parse(new TextDecoder().decode(bytes));
  } catch {
    return "This token cannot be read.";
  }
  const { subscribe = [], publish = [] } = claims.fanfare ?? claims.mercure ?? {};
  const grants = [];
  if (subscribe.length > 0) grants.push(`private events of ${[subscribe].flat().join(", ")}`);
  if (publish.length > 0) grants.push(`publishes to ${[publish].flat().join(", ")}`);
  const whose = claims.sub === undefined ? "" : `${claims.sub}: `;
  return `${whose}${grants.join("; ") || "grants nothing"}. ${whenSays(claims.exp)}`;
}

function whenSays(expires) {
  if (!Number.isFinite(expires)) {
    return "It has no expiry.";
  }
  const time = new Date(expires * 1000).toLocaleString();
  return expires * 1000 > Date.now() ? `Expires ${time}.` : `It expired ${time}.`;
}

// The token that this page may read in its cookie. An application's own cookie is HttpOnly, and this page
// leaves it alone.
export function tokenOfCookie() {
  const pairs = document.cookie.split("; ").map((pair) => pair.split("="));
  return pairs.find(([name]) => name === COOKIE)?.[1] ?? "";
}

// Puts a token into the cookie, or removes it. Answers why the browser did not take it, if it did not.
export function setCookie(token) {
  const secure = location.protocol === "https:" ? "; Secure" : "";
  const age = token === "" ? "; Max-Age=0" : "";
  document.cookie = `${COOKIE}=${token}; path=/; SameSite=Strict${secure}${age}`;
  if (token === "" || tokenOfCookie() === token) {
    return null;
  }
  return token.length + COOKIE.length > COOKIE_BYTES
    ? `The token is too long for a cookie: it has ${token.length} characters, and a browser takes ${COOKIE_BYTES}.`
    : "The browser did not take the cookie. Are cookies switched off?";
}

// Takes what stands behind `#` in the address of this page, which never leaves the browser, and removes it
// there: `token=TOKEN` and `publish-token=TOKEN`, or the query of a signed URL. Only on this machine's own
// names: elsewhere a link could sign a visitor in as another user.
export function takeFromAddress(isOwnMachine) {
  const text = location.hash.slice(1);
  const given = new URLSearchParams(text);
  const isSigned = given.has("signature");
  const [token, publishToken] = [given.get("token"), given.get("publish-token")];
  if (!isOwnMachine || (!isSigned && token === null && publishToken === null)) {
    return {};
  }
  history.replaceState(null, "", location.pathname);
  return { token: isSigned ? text : token, publishToken };
}
