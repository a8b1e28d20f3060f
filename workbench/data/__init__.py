"""Training data: recognise a file, list its problems, freeze a test part, keep it."""
