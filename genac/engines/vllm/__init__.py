"""vLLM as an engine: servers over HTTP, new weights by folder. docs/vllm.md says how to use it."""
