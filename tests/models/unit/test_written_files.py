"""Files as pages of other projects write them: a prompt file, and a configuration for LiteLLM."""

from pathlib import Path

from meshwright.agents.prompts import Prompts
from meshwright.models.config import read_config
from meshwright.models.routing import group_deployments, group_fallbacks, matching
from tests.support.running_mesh import run

PROMPT = """\
---
model: anthropic/claude-sonnet-4-20250514
temperature: 0.7
tags:
  - coding
  - expensive
---
You are the Architect Agent for the mesh-six agent mesh...
"""
CONFIG = """\
router_settings:
  enable_tag_filtering: true
  fallbacks:
    - anthropic/claude-sonnet-4-20250514: ["gemini/gemini-2.0-flash", "ollama/phi4-mini"]
    - gemini/gemini-2.0-flash: ["ollama/phi4-mini"]

litellm_settings:
  drop_params: true
  set_verbose: false
  request_timeout: 120
  default_fallbacks: ["ollama/phi4-mini"]
  cache: true
  cache_params:
    type: redis
    host: redis-cluster.redis:6379
    supported_call_types:
      - acompletion
      - completion
    ttl: 3600  # 1 hour

model_list:
  - model_name: "anthropic/claude-sonnet-4-20250514"
    litellm_params:
      model: "anthropic/claude-sonnet-4-20250514"
      api_key: "os.environ/ANTHROPIC_API_KEY"
      tags: ["expensive", "coding", "architecture", "management"]
  - model_name: "gemini/gemini-2.0-flash"
    litellm_params:
      model: "gemini/gemini-2.0-flash"
      api_key: "os.environ/GOOGLE_API_KEY"
      tags: ["medium", "research"]
  - model_name: "ollama/phi4-mini"
    litellm_params:
      model: "ollama/phi4-mini"
      api_base: "http://ollama.ollama:11434"
      tags: ["cheap", "local", "monitoring"]
  - model_name: "ollama-phi3.5"
    litellm_params:
      model: "ollama/phi3.5"
      api_base: "http://ollama.ollama:11434"
      tags: ["compression"]
  - model_name: "ollama/phi4-mini"
    litellm_params:
      model: "ollama/phi4-mini"
      api_base: "http://ollama.ollama:11434"
      tags: ["default"]
"""
CLAUDE, GEMINI, PHI = "anthropic/claude-sonnet-4-20250514", "gemini/gemini-2.0-flash", "ollama/phi4-mini"


def test_a_prompt_file_is_read_as_written(tmp_path: Path) -> None:
    (tmp_path / "architect-agent.prompt").write_text(PROMPT)
    prompt = Prompts(tmp_path).resolve("architect-agent")
    assert (prompt.source, prompt.model, prompt.temperature) == ("file", CLAUDE, 0.7)
    assert prompt.tags == ("coding", "expensive")
    (tmp_path / "actors").mkdir()
    done = run("prompts", "check", cwd=tmp_path, PROMPT_DIR=str(tmp_path))
    assert done.stdout == "1 prompt checked, no problems.\n"


def test_a_configuration_for_litellm_is_read_as_written(tmp_path: Path) -> None:
    path = tmp_path / "litellm_config.yaml"
    path.write_text(CONFIG)
    config = read_config(path)
    assert config is not None and {*config.groups} == {CLAUDE, GEMINI, PHI, "ollama-phi3.5"}
    assert group_fallbacks(config, CLAUDE, "fallbacks") == (GEMINI, PHI)
    phi = group_deployments(config, PHI)
    assert phi is not None and len(phi) == 2
    [cheap] = matching(config, phi, ("cheap",))
    assert cheap["litellm_params"]["tags"] == ["cheap", "local", "monitoring"]
