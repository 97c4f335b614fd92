"""The house of the series: six wings with the themes of the notebooks, one of their exercises and one of scripts, over
four ground files.

    files, setup, stats, plots     whole files and who writes them, machine and packages, all statistics, shared figures

    data         01  questions, exact answers, the tiny world, leaks and wrong labels
    rewards      02  reward functions, the bank and the bench they are tried on, the Reward Lab
    model        00  profiles, the policy and its engines, the short decoding loop
    training  03, 04 GRPO, checkpoints, what to watch, whether it will run here
    evaluation   05  protocol, card and comparison, kinds of errors, pass@k, the report
    experiments  06  short runs over seeds, and what they say
    exercises        what says "solved" or "not yet" under an exercise, and why
    scripts          behind run.py and assets/

A wing imports from those above it only; rewards and model do not know each other, nor do training and evaluation
(tests/test_imports.py). Every wing's own `__init__.py` says what its modules are for. Importing them loads nothing.
"""
