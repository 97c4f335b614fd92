"""The model, notebook 00: which one, in which precision, on which engine, and how it answers.

profiles        the numbers of each kind of machine
weights         do the weights in a folder land in the model?
gguf_file       a model in one file of llama.cpp, loaded whole
vllm_engine     vLLM beside transformers: checked, started, kept in step with the model that is trained
policy          load a model, put an adapter on it, ask it
network         a model of the Qwen2 kind laid out for decoding, and its forward pass
decoding        a short decoding loop, prompts read once
prompt_sharing  a trainer reads a group's prompt once, and does without logits
"""
