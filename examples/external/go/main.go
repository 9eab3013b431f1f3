// An agent of a mesh in Go: it does what the script of each task says, as the contract suite wants it.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
)

// Line is a line of a task's script.
type Line struct {
	Do         string         `json:"do"`
	Key        string         `json:"key"`
	URL        string         `json:"url"`
	Idempotent bool           `json:"idempotent"`
	Request    map[string]any `json:"request"`
	Message    string         `json:"message"`
	Declined   bool           `json:"declined"`
}

func main() {
	mesh := &Mesh{URL: os.Getenv("MESH_URL"), Key: os.Getenv("MESH_KEY"), Agent: os.Getenv("MESH_AGENT"), Worker: "go"}
	mesh.Work(handle)
}

func handle(run *Run) (any, error) {
	var payload struct{ Script []Line }
	if err := json.Unmarshal(run.Task.Payload, &payload); err != nil {
		return nil, err
	}
	values := map[string]json.RawMessage{}
	for _, line := range payload.Script {
		switch line.Do {
		case "fail":
			return nil, &Failure{Type: "Failed", Message: line.Message, Declined: line.Declined}
		case "work": // until the run is not ours any more
			if err := run.Progress("working"); err != nil {
				return nil, err
			}
			<-run.Context.Done()
			return nil, ErrLeft
		case "step":
			value, err := run.Step(line.Key, map[string]any{"url": line.URL}, line.Idempotent, func(id string) (any, error) {
				return effect(run, line.URL, id)
			})
			if err != nil {
				return nil, err
			}
			values[line.Key] = value
		default:
			value, err := run.Do(line.Key, line.Do, line.Request)
			if err != nil {
				return nil, err
			}
			values[line.Key] = value
		}
	}
	return map[string]any{"values": values}, nil
}

// effect changes something outside, under the step's id.
func effect(run *Run, url, stepID string) (any, error) {
	request, err := http.NewRequestWithContext(run.Context, "POST", url, bytes.NewReader(nil))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Idempotency-Key", stepID)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the effect answered %s", response.Status)
	}
	var value any
	return value, json.NewDecoder(response.Body).Decode(&value)
}
