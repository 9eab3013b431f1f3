/** An agent of a mesh in TypeScript: it does what the script of each task says, as the contract wants it. */
import { Failure, Left, Mesh, Run } from "./mesh.js";

declare const process: { env: Record<string, string | undefined> };

interface Line {
  do: string;
  key: string;
  url: string;
  idempotent: boolean;
  request: object;
  message: string;
  declined: boolean;
}

/** Change something outside, under the step's id. */
async function effect(run: Run, url: string, stepId: string): Promise<unknown> {
  const headers = { "Idempotency-Key": stepId };
  const response = await fetch(url, { method: "POST", headers, signal: run.left });
  if (!response.ok) throw new Error(`the effect answered ${response.status}`);
  return response.json();
}

async function handle(run: Run): Promise<Record<string, unknown>> {
  const values: Record<string, unknown> = {};
  for (const line of run.task.payload["script"] as Line[]) {
    switch (line.do) {
      case "fail":
        throw new Failure(line.message, "Failed", line.declined);
      case "work": // until the run is not ours any more
        await run.progress("working");
        await new Promise((resolve) => run.left.addEventListener("abort", resolve));
        throw new Left();
      case "step":
        values[line.key] = await run.step(line.key, { url: line.url }, (id) => effect(run, line.url, id), {
          idempotent: line.idempotent,
        });
        break;
      default:
        values[line.key] = await run.do(line.key, line.do, line.request);
    }
  }
  return { values };
}

const { MESH_URL = "", MESH_AGENT = "", MESH_KEY = "" } = process.env;
void new Mesh(MESH_URL, MESH_AGENT, MESH_KEY).work(handle);
