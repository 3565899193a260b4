"""A local web page that shows what encoders make of a picture (extra: demo).

`maps` asks the views of `distill.show`, `markup` makes their content a part of a page, `limits` checks what a visitor
sends before anything is done with it, `guard` keeps the process and the browser from talking to anybody else; only
`page` and `serve` know Gradio.
"""
