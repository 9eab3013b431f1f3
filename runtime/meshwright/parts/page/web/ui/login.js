// @ts-check
/** The login: a key or token, or a login at an issuer, becomes a cookie that no script can read. */
import { html, useEffect, useState } from "./vendor/preact.js";
import { Icon } from "./icons.js";
import { call, Failed, me, notice } from "./lib.js";

const VIEW = "view";
const left = sessionStorage.getItem(VIEW);
sessionStorage.removeItem(VIEW);
if (left && !location.hash) location.hash = left; // back from the issuer, to what was open before

/** The view. */
export function Login() {
  const [error, setError] = useState(/** @type {any} */ (null));
  const [issuer, setIssuer] = useState("");
  useEffect(() => {
    call("GET", "/session").then((ways) => setIssuer(ways.oidc ?? ""), () => {});
  }, []);
  const send = async (/** @type {any} */ event) => {
    event.preventDefault();
    try {
      await call("POST", "/session", { token: String(new FormData(event.target).get("token")).trim() });
      me.value = await call("GET", "/me");
      notice.value = null;
    } catch (problem) {
      setError(problem);
    }
  };
  return html`<main class="alone"><h1><${Icon} name="mark" /> Meshwright</h1>
    ${notice.value ? html`<p role="status">${notice.value.text}</p>` : null}
    ${issuer ? html`<p><a class="button" href="/session/oidc" onClick=${() => sessionStorage.setItem(VIEW, location.hash)}>Log in with ${issuer}</a></p>` : null}
    <form class="stack" onSubmit=${send}>
      <label>Key or token <input name="token" type="password" autocomplete="current-password" required autofocus /></label>
      <button class="yes">Log in</button>
      <${Failed} error=${error} />
      <p class="dim"><code>mesh keys create --name NAME</code> makes a key; the administrator's token is in <code>admin.token</code> of the mesh's data folder.</p>
    </form></main>`;
}
