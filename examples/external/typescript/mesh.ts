/** The HTTP API of a mesh, as the program of one agent uses it. Copy it: it needs nothing but fetch. */

/** The run goes on without this program: it waits, was cancelled, or has another program by now. */
export class Left extends Error {}

/** The error of a step, or of a task; `declined` where the agent says no, rather than broke. */
export class Failure extends Error {
  constructor(message: string, readonly type = "Failed", readonly declined = false) {
    super(message);
  }
}

export interface Task {
  task_id: string;
  text: string;
  payload: Record<string, any>;
  deadline_at: string;
}

interface State {
  state: string;
  value: any;
  error: { type: string; message: string } | null;
  step_id: string;
}

interface Claim {
  run: { token: string; lease_seconds: number; task: Task } | null;
}

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

export class Mesh {
  constructor(readonly url: string, readonly agent: string, readonly key = "", readonly worker = "typescript") {}

  /** Claim runs for ever, and have each handled. One that another program had begun begins at its start. */
  async work(handle: (run: Run) => Promise<Record<string, unknown>>): Promise<never> {
    for (;;) {
      let claim: Claim;
      try {
        claim = await this.post(`${this.agent}/claim`, { worker: this.worker, wait: 30 });
      } catch (error) {
        console.log("no claim:", String(error)); // the mesh starts, or is away
        await pause(200);
        continue;
      }
      if (claim.run === null) continue;
      const run = new Run(this, claim.run.task, claim.run.token);
      void run.beat((claim.run.lease_seconds * 1000) / 3);
      try {
        await run.end({ data: await handle(run) });
      } catch (error) {
        if (error instanceof Left || run.left.aborted) continue;
        const failure = asFailure(error);
        const { type, message, declined } = failure;
        await run.end({ error: { type, message }, declined }).catch(() => {});
      } finally {
        run.leave();
      }
    }
  }

  async post(path: string, body: object, signal?: AbortSignal): Promise<any> {
    const headers: Record<string, string> = { "Content-Type": "application/json" };
    if (this.key) headers["Authorization"] = `Bearer ${this.key}`;
    const response = await fetch(`${this.url}/external/${path}`, {
      method: "POST",
      headers,
      body: JSON.stringify(body),
      signal: signal ?? null,
    });
    const document: any = await response.json();
    if (response.status === 422) throw new Failure(document.detail, "WrongRequest"); // the request is wrong
    if (!response.ok) throw new Error(`${response.status}: ${document.detail}`);
    return document;
  }
}

/** A run that this program has claimed. */
export class Run {
  private readonly controller = new AbortController();
  /** Is aborted once the run is not this program's any more. */
  readonly left = this.controller.signal;

  constructor(private readonly mesh: Mesh, readonly task: Task, private readonly token: string) {}

  /** Do work once, however often the run begins again. A key names it in the run; the step's id is the same
   * each time it is done. Where a step that is not idempotent may have happened, the mesh asks a person. */
  async step(
    key: string,
    request: object,
    work: (stepId: string) => Promise<unknown>,
    options: { idempotent?: boolean } = {},
  ): Promise<any> {
    const asked = { key, request, idempotent: options.idempotent ?? true };
    const state = await this.take(asked);
    if (state.state !== "yours") return state.value;
    let report: object;
    try {
      report = { value: await work(state.step_id) };
    } catch (error) {
      if (this.left.aborted) throw new Left();
      const { type, message } = asFailure(error);
      report = { error: { type, message } };
    }
    return this.read(await this.send("results", { key, request, ...report })).value;
  }

  /** Have the mesh do a step: ask, sleep, event, model, call or delegate. */
  async do(key: string, kind: string, request: object): Promise<any> {
    return (await this.take({ key, kind, request })).value;
  }

  /** Say how far the work is. */
  async progress(text: string): Promise<void> {
    this.read(await this.send("heartbeat", { progress: text }));
  }

  /** Let go of the run. */
  leave(): void {
    this.controller.abort();
  }

  /** Send heartbeats until the run is left. */
  async beat(ms: number): Promise<void> {
    while (!this.left.aborted) {
      await pause(ms);
      if (!this.left.aborted) await this.progress("").catch(() => {});
    }
  }

  /** End the run. */
  async end(body: object): Promise<void> {
    if (!this.left.aborted) await this.send("complete", body);
  }

  private async take(body: object): Promise<State> {
    for (;;) {
      const state = this.read(await this.send("steps", body));
      if (state.state !== "working") return state;
    }
  }

  private read(state: State): State {
    if (["done", "yours", "working"].includes(state.state)) return state;
    if (state.state === "failed" && state.error) throw new Failure(state.error.message, state.error.type);
    this.leave();
    throw new Left();
  }

  private async send(verb: string, body: object): Promise<State> {
    const path = `runs/${this.task.task_id}/${verb}`;
    try {
      return await this.mesh.post(path, { ...body, token: this.token }, this.left);
    } catch (error) {
      if (error instanceof Failure) throw error;
      console.log(verb, String(error));
      this.leave();
      throw new Left();
    }
  }
}

function asFailure(error: unknown): Failure {
  if (error instanceof Failure) return error;
  return new Failure(error instanceof Error ? error.message : String(error));
}
