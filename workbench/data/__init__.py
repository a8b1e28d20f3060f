"""Training data: recognise a file, check it, freeze a test part, keep it. No torch here.

`store.Datasets` is the way in; `checks.check` judges rows, `scorers.score` judges answers.
"""
