"""What stands behind run.py and assets/; no notebook imports it.

commands     the commands of run.py, and their options
notebooks    execute the series, and write what repeats in it
pretrain     make the embedded model
bundle       a workshop on a stick, installed without a network
board        the rewards of a room, checked, trained and compared
prompts      compare system prompts on a real model
record       make the recorded runs and the bank
real        measure and train a real model, in any number of sittings
experiments  run the experiments and write FINDINGS.md
series       how long each notebook takes to read, and the map of the series
"""
