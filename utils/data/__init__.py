"""Data, notebook 01: questions with exact answers, and nothing leaked or wrong that is not known.

answers     read the number out of a text, and compare it exactly
rows        files with one JSON record a line, and what is none
questions   questions and prompts from any source, one code path
tiny_world  the embedded world of word problems, and its three shifts
audit       leaks between splits, and GSM8K's known wrong labels
"""
