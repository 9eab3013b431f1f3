package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// ErrLeft says that the run goes on without this program: it waits for an answer, was cancelled, or has
// another program by now. Return it, and claim again.
var ErrLeft = errors.New("the run is not this program's any more")

// Failure is the error of a step, or of a task.
type Failure struct {
	Type     string `json:"type,omitempty"`
	Message  string `json:"message"`
	Declined bool   `json:"-"` // the agent says no, rather than broke
}

func (f *Failure) Error() string { return f.Message }

// Task is what the run is about.
type Task struct {
	ID       string          `json:"task_id"`
	Text     string          `json:"text"`
	Payload  json.RawMessage `json:"payload"`
	Deadline time.Time       `json:"deadline_at"`
}

// Mesh is the HTTP API of a mesh, as one agent's program uses it.
type Mesh struct{ URL, Key, Agent, Worker string }

// Run is a run that this program has claimed.
type Run struct {
	Task    Task
	Context context.Context // is done once the run is not this program's any more

	mesh  *Mesh
	token string
	leave context.CancelFunc
}

type state struct {
	State  string          `json:"state"`
	Value  json.RawMessage `json:"value"`
	Error  *Failure        `json:"error"`
	StepID string          `json:"step_id"`
}

// Work claims runs for ever, and has each handled. A run that another program had begins at its start: its
// steps have their results.
func (m *Mesh) Work(handle func(*Run) (any, error)) {
	for {
		var claim struct {
			Run *struct {
				Token string  `json:"token"`
				Lease float64 `json:"lease_seconds"`
				Task  Task    `json:"task"`
			} `json:"run"`
		}
		body := map[string]any{"worker": m.Worker, "wait": 30}
		if err := m.post(context.Background(), m.Agent+"/claim", body, &claim); err != nil {
			fmt.Println("no claim:", err) // the mesh starts, or is away
			time.Sleep(200 * time.Millisecond)
			continue
		}
		if claim.Run == nil {
			continue
		}
		ctx, leave := context.WithDeadline(context.Background(), claim.Run.Task.Deadline)
		run := &Run{Task: claim.Run.Task, Context: ctx, mesh: m, token: claim.Run.Token, leave: leave}
		go run.beat(time.Duration(claim.Run.Lease * float64(time.Second) / 3))
		result, err := handle(run)
		run.end(result, err)
		leave()
	}
}

// Step does work once, however often the run begins again. A key names it in the run; the step's id is the
// same each time it is done. Where a step that is not idempotent may have happened, the mesh asks a person.
func (r *Run) Step(key string, request any, idempotent bool, do func(stepID string) (any, error)) (json.RawMessage, error) {
	answer, err := r.take(map[string]any{"key": key, "request": request, "idempotent": idempotent})
	if err != nil || answer.State != "yours" {
		return answer.Value, err
	}
	body := map[string]any{"key": key, "request": request}
	if value, err := do(answer.StepID); err == nil {
		body["value"] = value
	} else if r.Context.Err() != nil {
		return nil, ErrLeft
	} else {
		body["error"] = asFailure(err)
	}
	return r.read(r.send("results", body))
}

// Do has the mesh do a step: ask, sleep, event, model, call or delegate.
func (r *Run) Do(key, kind string, request any) (json.RawMessage, error) {
	answer, err := r.take(map[string]any{"key": key, "kind": kind, "request": request})
	return answer.Value, err
}

// Progress says how far the work is.
func (r *Run) Progress(text string) error {
	_, err := r.read(r.send("heartbeat", map[string]any{"progress": text}))
	return err
}

func (r *Run) take(body map[string]any) (*state, error) {
	for {
		answer, err := r.send("steps", body)
		if err == nil && answer.State == "working" {
			continue
		}
		_, err = r.read(answer, err)
		return answer, err
	}
}

func (r *Run) read(answer *state, err error) (json.RawMessage, error) {
	if err != nil {
		return nil, err
	}
	switch answer.State {
	case "done", "yours", "working":
		return answer.Value, nil
	case "failed":
		return nil, answer.Error
	}
	r.leave()
	return nil, ErrLeft
}

func (r *Run) send(verb string, body map[string]any) (*state, error) {
	body["token"] = r.token
	var answer state
	if err := r.mesh.post(r.Context, "runs/"+r.Task.ID+"/"+verb, body, &answer); err != nil {
		fmt.Println(verb, err)
		if failure := new(Failure); errors.As(err, &failure) {
			return &answer, err // the request is wrong
		}
		r.leave()
		return &answer, ErrLeft
	}
	return &answer, nil
}

func (r *Run) beat(pause time.Duration) {
	for {
		select {
		case <-r.Context.Done():
			return
		case <-time.After(pause):
			_, _ = r.read(r.send("heartbeat", map[string]any{}))
		}
	}
}

func (r *Run) end(result any, err error) {
	if r.Context.Err() != nil || errors.Is(err, ErrLeft) {
		return
	}
	body := map[string]any{"data": result}
	if err != nil {
		failure := asFailure(err)
		body = map[string]any{"error": failure, "declined": failure.Declined}
	}
	_, _ = r.send("complete", body)
}

func asFailure(err error) *Failure {
	var failure *Failure
	if errors.As(err, &failure) {
		return failure
	}
	return &Failure{Type: "Failed", Message: err.Error()}
}

func (m *Mesh) post(ctx context.Context, path string, body, answer any) error {
	data, err := json.Marshal(body)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, "POST", m.URL+"/external/"+path, bytes.NewReader(data))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	if m.Key != "" {
		request.Header.Set("Authorization", "Bearer "+m.Key)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		var problem struct{ Detail string }
		_ = json.NewDecoder(response.Body).Decode(&problem)
		if response.StatusCode == http.StatusUnprocessableEntity {
			return &Failure{Type: "WrongRequest", Message: problem.Detail}
		}
		return fmt.Errorf("%s: %s", response.Status, problem.Detail)
	}
	return json.NewDecoder(response.Body).Decode(answer)
}
