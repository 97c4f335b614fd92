"""Experiments, notebook 06: one thing changed, over seeds.

short_run   train briefly and judge
grid        every arm with every seed, kept as it comes
catalogue   the questions asked, and the arms that answer them
findings    differences with intervals, and their pictures
"""
