"""Evaluation, notebook 05: asked one way, judged exactly, compared in pairs, and what a number may claim.

protocol    how it was asked, and the folder that keeps every answer
evaluate    verdicts, the card, the comparison
sampling    many samples a question: pass@k, majority votes, calibration
errors      why an answer is wrong
equations   the equations in a working, and whether they hold
agreement   other scorers' verdicts beside ours
figures     the pictures
browser     question by question, both completions
report      summary.json, report.html, the model card
"""
