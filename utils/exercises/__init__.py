"""The checks behind the exercises: one module for the exercises of one notebook.

checks         what all of them use: the learner's function is called with care, and what is wrong is said
start          00
data_prep      01
reward_design  02
from_scratch   03
grpo_training  04
evaluation     05
experiments    06
by_hand        GRPO in pieces that can be replaced, compared with TRL, and what a run looks like
bug_hunt       the bug hunt of the workshop
"""
