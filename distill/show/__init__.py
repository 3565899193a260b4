"""Looking at what encoders see: maps (`views`), their colours, and contact sheets.

`views.VIEWS` makes arrays from models and pictures; `sheet.draw` lays them out on paper. The maths below both is free
of models and files: `basis`, `parts`, `similarity`, `colours`, `palette`, `vision`.
"""
