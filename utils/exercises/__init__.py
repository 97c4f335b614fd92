"""The checks behind the exercises: one module for the exercises of one notebook.

checks         what all of them use: the learner's function is called with care, and what is wrong is said
start          00
evaluation     05
"""
