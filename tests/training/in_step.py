"""A short training of the embedded model, to be started by a launcher in any number of processes.

    python -m torch.distributed.run --standalone --nproc-per-node 2 -m tests.training.in_step FOLDER [--written]

With --written the completions are the same in any number of processes: made from the step and the place in it.
"""

import random
from argparse import ArgumentParser
from pathlib import Path

from utils.data.questions import load_questions
from utils.model.policy import load_policy
from utils.model.profiles import PROFILES
from utils.training.grpo import build_trainer, run_training

STEPS, SAVE_EVERY = 6, 2


def written(trainer, prompts):
    """For each prompt the ids of a text with an answer, so that rewards differ within groups; no log-probabilities."""
    texts, first = [], trainer.accelerator.process_index * len(prompts)
    for place in range(first, first + len(prompts)):
        draw = random.Random(1000 * trainer.state.global_step + place)
        working = " ".join(f"{draw.randint(1, 60)}" for _ in range(draw.randint(1, 12)))
        text = f"<reasoning>\n{working}\n</reasoning>\n<answer>{draw.randint(1, 60)}</answer>"
        texts.append(text[draw.randint(0, 1) :])
    return [trainer.processing_class(text).input_ids + [trainer.processing_class.eos_token_id] for text in texts], None


def main():
    parser = ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--written", action="store_true")
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    policy = load_policy(PROFILES["tiny"].replace(steps=STEPS, save_every=SAVE_EVERY))
    trainer = build_trainer(policy, load_questions("tiny", "train"), args.folder)
    if args.written:
        trainer._generate_single_turn = lambda prompts, images, fields: written(trainer, prompts)
    run_training(trainer, resume=args.resume)


if __name__ == "__main__":
    main()
