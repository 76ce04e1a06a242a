"""The engine `vllm`: vLLM's server beside the learner, weights sent after every update, each transfer checked."""
