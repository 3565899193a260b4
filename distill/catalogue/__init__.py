"""What distill knows by name, told without loading anything: families of encoders, data sets of the evaluation.

Nothing here imports torch, so lists are printed at once. How a family's encoders are loaded stands in
`teachers.families`, how a data set's files are read in `distill.eval.layouts`; a test holds both against these tables.
"""
