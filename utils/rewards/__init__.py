"""Rewards, notebook 02: what is paid for, and what that would teach.

contract    what a reward owes: a name, and a number for each completion, in time
functions   correctness and layout, with TRL's signature; advantages; the set that others publish
groups      one group opened up: completions, parts, advantages
bank        stored completions under any rewards, with warning lights
bench       is it a reward function, and does it put the known tricks in order?
export      from a notebook to a file for `run.py train --reward FILE`
lab         the Reward Lab, a view of all of these
"""
