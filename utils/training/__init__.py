"""Training, notebooks 03 and 04: GRPO by TRL, watched, stopped and gone on with.

grpo         a run: its settings, its log, its folder, resume
trainer      TRL's, with several end tokens, without logits, without idle work
checkpoints  which can be gone on from, and their mirror
trained      which training is there to be judged
watch        live table, alarms, "why is my loss 0"
preflight    will it run here, and does the token cap fit?
memory       what a step takes, by part
diagrams     pictures of what is trained, and of how a reward reaches a token
saving       merged weights, GGUF, the hub
"""
