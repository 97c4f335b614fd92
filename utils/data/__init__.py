"""Data, notebook 01: questions with exact answers, and nothing leaked or wrong that is not known.

numbers     read a number as people and models write it, exactly
answers     find the answer in a completion, and compare it with the gold
rows        files with one JSON record a line, and what is none
questions   questions from any source, one code path
prompts     what asks a model for the layout, by name, and how many tokens it takes
tiny_world  the embedded world of word problems, and its three shifts
audit       leaks between splits, and GSM8K's known wrong labels
"""
