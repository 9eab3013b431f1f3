// @ts-check
/** The login: a key or token becomes a cookie that no script can read. */
import { html, useState } from "./vendor/preact.js";
import { call, Failed, me } from "./lib.js";

/** The view. */
export function Login() {
  const [error, setError] = useState(/** @type {any} */ (null));
  const send = async (/** @type {any} */ event) => {
    event.preventDefault();
    try {
      await call("POST", "/session", { token: String(new FormData(event.target).get("token")).trim() });
      me.value = await call("GET", "/me");
    } catch (problem) {
      setError(problem);
    }
  };
  return html`<main><h1>Meshwright</h1>
    <form class="stack" onSubmit=${send}>
      <label>Key or token <input name="token" type="password" autocomplete="current-password" required autofocus /></label>
      <button class="yes">Log in</button>
      <${Failed} error=${error} />
      <p class="dim"><code>mesh keys create NAME</code> makes a key; the administrator's token is in <code>admin.token</code> of the mesh's data folder.</p>
    </form></main>`;
}
